mod cluster;
mod directory;
mod disk_cache;
mod groups;
mod key;
mod manifest;
mod reader;
mod store;
