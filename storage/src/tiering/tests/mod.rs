mod cluster;
mod directory;
mod groups;
mod key;
mod manifest;
mod reader;
mod store;
