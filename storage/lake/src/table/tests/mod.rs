mod append;
mod maintain;
mod race;
mod support;
