//! docs/configuration.md, made from the table. The test below holds the file to it; `OTTLA_BLESS=1 cargo test` writes it.

use std::fmt::Write;

use super::table::{self, Effect, Key, Scope, Unit, Update};

/// The page.
#[cfg_attr(not(test), expect(dead_code, reason = "the page is written by its test"))]
pub fn page() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         <!-- Made from broker/src/config/table; `OTTLA_BLESS=1 cargo test -p ottla reference` writes it again. -->\n\n\
         Keys, types, units and defaults are Apache Kafka's; what only Ottla has is named `ottla.*`. A node reads \
         `server.properties` (UTF-8, or ISO 8859-1 as Java does), then `--override key=value`; the last value of a key counts. \
         `ottla start` without a file is `ottla start config/server.properties` of the source tree.\n\n\
         A value that cannot be is refused with the key, the value and what was expected, all of them at once. Keys that Kafka \
         knows and Ottla does not act on are reported once at start. Where a default differs from Kafka's: `node.id`, \
         `process.roles` and `controller.listener.names` have one, `log.dir` is `./data`, \
         a silent broker is fenced after 3 s instead of 9 (`broker.session.timeout.ms`, `broker.heartbeat.interval.ms`), and \
         `offsets.topic.replication.factor` is 1 on a node that is the whole cluster while it is not set.\n\n\
         *Update* says how a key changes while a node runs: `no` by a restart only; `broker` for one broker with \
         `kafka-configs --entity-type brokers --entity-name <id>`; `cluster` for one broker or, with `--entity-default`, for all. \
         Topics' and groups' keys always can.\n\n",
    );
    section(&mut page, "Keys of a broker", Scope::Broker, Effect::Used);
    section(&mut page, "Configurations of a topic", Scope::Topic, Effect::Used);
    page.push_str("Keys that Kafka knows and that have no effect yet are accepted, so that files of Kafka can be used as they are:\n\n");
    section(&mut page, "Broker keys without effect", Scope::Broker, Effect::Known);
    section(&mut page, "Topic configurations without effect", Scope::Topic, Effect::Known);
    section(&mut page, "Group configurations without effect", Scope::Group, Effect::Known);
    section(&mut page, "Client metrics configurations without effect", Scope::ClientMetrics, Effect::Known);
    page.push_str(
        "These promise something that is not there; any other value than the default is refused:\n\n",
    );
    section(&mut page, "Broker keys that are refused", Scope::Broker, Effect::OnlyDefault);
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn section(page: &mut String, title: &str, scope: Scope, effect: Effect) {
    let mut keys: Vec<&Key> =
        table::keys_of(scope).filter(|key| key.effect == effect && !key.hidden).collect();
    keys.sort_by_key(|key| key.name);
    let third = if scope == Scope::Broker { "Update" } else { "Broker key" };
    let _ = write!(
        page,
        "## {title}\n\n| Key | Default | Values | {third} | Meaning |\n| --- | --- | --- | --- | --- |\n"
    );
    for key in keys {
        let default = match key.default.text() {
            None => "none".to_owned(),
            Some("") => "empty".to_owned(),
            Some(text) => format!("`{text}`"),
        };
        let third = match (scope, key.update) {
            (Scope::Broker, Update::ReadOnly) => "no".to_owned(),
            (Scope::Broker, Update::PerBroker) => "broker".to_owned(),
            (Scope::Broker, Update::ClusterWide) => "cluster".to_owned(),
            _ => key
                .broker_keys
                .iter()
                .map(|(name, unit)| match unit {
                    Unit::Same => format!("`{name}`"),
                    Unit::Minutes | Unit::Hours => format!("then `{name}`"),
                })
                .collect::<Vec<_>>()
                .join(", "),
        };
        let _ = writeln!(page, "| `{}` | {default} | {} | {third} | {} |", key.name, key.expected(), key.doc);
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let wanted = page();
        if std::env::var_os("OTTLA_BLESS").is_some() {
            std::fs::write(path, &wanted).expect("docs/configuration.md can be written");
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let differs = wanted.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
        assert!(
            found == wanted,
            "docs/configuration.md is not what the table says, first here: {differs:?}; OTTLA_BLESS=1 writes it"
        );
    }
}
