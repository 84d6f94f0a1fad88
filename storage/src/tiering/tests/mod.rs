mod directory;
mod key;
mod store;
