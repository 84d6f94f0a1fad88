mod append;
mod maintain;
mod making_catalog;
mod race;
mod support;
