//! The group coordinator: consumer groups and committed offsets, kept in `__consumer_offsets`.

/// Coordinates the groups whose `__consumer_offsets` partition this broker leads.
pub struct GroupCoordinator {}
