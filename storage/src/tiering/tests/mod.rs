mod directory;
mod key;
mod reader;
mod store;
