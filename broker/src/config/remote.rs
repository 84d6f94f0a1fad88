//! Which configurations of a tiered topic hold together: as Kafka's, but that compacted topics may be tiered too.

use ottla_raft::metadata::image::Configs;

use super::effective::TopicValues;

const ENABLE: &str = "remote.storage.enable";

/// `before`: what the topic has now, if that is known.
pub(super) fn check(values: &TopicValues<'_>, before: Option<&Configs>) -> Result<(), String> {
    if !values.flag(ENABLE) {
        let was_on = before.and_then(|configs| configs.get(ENABLE));
        let was_on = was_on.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
        return match was_on && !values.flag("remote.log.delete.on.disable") {
            false => Ok(()),
            true => Err(format!(
                "{ENABLE} cannot be switched off while the topic's records stay in the tier: set \
                 remote.log.delete.on.disable=true as well to delete them, or keep it on with \
                 remote.log.copy.disable=true to only read them"
            )),
        };
    }
    if !values.is_remote_system_enabled() {
        return Err(format!(
            "{ENABLE}: there is no remote tier, remote.log.storage.system.enable is false on this broker"
        ));
    }
    for (local_key, key) in
        [("local.retention.ms", "retention.ms"), ("local.retention.bytes", "retention.bytes")]
    {
        let (local, whole) = (values.integer(local_key), values.integer(key));
        if local == -2 {
            continue;
        }
        if values.flag("remote.log.copy.disable") && local != whole {
            return Err(format!(
                "Invalid value {local} for configuration {local_key}: with remote.log.copy.disable it must be -2 or as \
                 {key}, which is {whole}"
            ));
        }
        // No more can be kept here than is kept at all.
        if whole != -1 && (local == -1 || local > whole) {
            return Err(format!(
                "Invalid value {local} for configuration {local_key}: it must not be more than {key}, which is {whole}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ottla_raft::{ClusterId, ConfigResource, Image};

    use super::super::NodeConfig;
    use super::super::alter::{self, Refusal};
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(key, value)| (Arc::<str>::from(*key), Arc::<str>::from(*value))).collect()
    }

    fn refused_by(node: &[(&str, &str)], before: &[(&str, &str)], after: &[(&str, &str)]) -> Option<String> {
        let node: Vec<_> = node.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let node = NodeConfig::load(None, &node).unwrap();
        let mut image = Image::empty(ClusterId("AAAAAAAAAAAAAAAAAAAAAQ".into()));
        let topic = ConfigResource::topic("t");
        image.configs.insert(topic.clone(), configs(before));
        match alter::check(&node, &image, &topic, &configs(after)) {
            Ok(()) => None,
            Err(Refusal::InvalidConfig(reason)) => Some(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    const TIER: &[(&str, &str)] = &[("remote.log.storage.system.enable", "true")];
    const ON: (&str, &str) = (ENABLE, "true");
    const OFF: (&str, &str) = (ENABLE, "false");

    fn refused(after: &[(&str, &str)]) -> Option<String> {
        refused_by(TIER, &[], &[&[ON], after].concat())
    }

    #[test]
    fn a_topic_is_tiered_only_where_there_is_a_tier() {
        assert!(refused_by(&[], &[], &[ON]).unwrap().contains("remote.log.storage.system.enable"));
        assert_eq!(refused_by(&[], &[], &[OFF]), None);
        assert_eq!(refused(&[]), None);
        assert_eq!(refused(&[("cleanup.policy", "compact")]), None);
    }

    #[test]
    fn local_retention_is_at_most_that_of_the_whole() {
        for (key, local_key) in
            [("retention.ms", "local.retention.ms"), ("retention.bytes", "local.retention.bytes")]
        {
            assert_eq!(refused(&[(key, "1000"), (local_key, "1000")]), None);
            assert_eq!(refused(&[(key, "1000"), (local_key, "-2")]), None);
            assert_eq!(refused(&[(key, "-1"), (local_key, "-1")]), None);
            assert_eq!(refused(&[(key, "-1"), (local_key, "1000")]), None);
            assert!(refused(&[(key, "1000"), (local_key, "1001")]).unwrap().contains(local_key));
            assert!(refused(&[(key, "1000"), (local_key, "-1")]).unwrap().contains(local_key));
            // Without a tier nobody asks.
            assert_eq!(refused_by(TIER, &[], &[(key, "1000"), (local_key, "1001")]), None);
        }
    }

    #[test]
    fn without_copies_both_retentions_are_one() {
        let disabled = ("remote.log.copy.disable", "true");
        assert_eq!(refused(&[disabled]), None);
        assert_eq!(refused(&[disabled, ("retention.ms", "1000"), ("local.retention.ms", "1000")]), None);
        let differs = refused(&[disabled, ("retention.ms", "1000"), ("local.retention.ms", "500")]);
        assert!(differs.unwrap().contains("remote.log.copy.disable"));
    }

    #[test]
    fn a_topic_leaves_the_tier_with_all_it_has_there() {
        let refusal = refused_by(TIER, &[ON], &[OFF]).unwrap();
        assert!(refusal.contains("remote.log.delete.on.disable"), "{refusal}");
        assert!(refused_by(TIER, &[ON], &[]).is_some(), "the default is off");
        assert_eq!(refused_by(TIER, &[ON], &[OFF, ("remote.log.delete.on.disable", "true")]), None);
        assert_eq!(refused_by(TIER, &[OFF], &[OFF]), None);
    }
}
