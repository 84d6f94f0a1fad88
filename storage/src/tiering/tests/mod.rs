mod cluster;
mod directory;
mod key;
mod manifest;
mod reader;
mod store;
