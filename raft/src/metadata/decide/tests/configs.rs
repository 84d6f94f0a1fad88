//! IncrementalAlterConfigs and AlterConfigs.

use super::*;

#[test]
fn configs_change_one_by_one() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("t", 1, 1)).unwrap();
    let t = ConfigResource::topic("t");
    let append =
        |items: &str| ConfigOperation::Append { items: items.into(), default: Some("delete".into()) };
    let subtract =
        |items: &str| ConfigOperation::Subtract { items: items.into(), default: Some("x,y".into()) };
    let value = |cluster: &Cluster, key: &str| cluster.image.config(&t, key).map(|value| value.to_string());
    alter(&mut cluster, t.clone(), vec![("a", set("1")), ("list", append("compact,delete"))]).unwrap();
    assert_eq!(value(&cluster, "a").as_deref(), Some("1"));
    assert_eq!(value(&cluster, "list").as_deref(), Some("delete,compact"));
    alter(&mut cluster, t.clone(), vec![("list", subtract("delete")), ("other", subtract("x"))]).unwrap();
    assert_eq!(value(&cluster, "list").as_deref(), Some("compact"));
    assert_eq!(value(&cluster, "other").as_deref(), Some("y"), "of the default");
    alter(&mut cluster, t.clone(), vec![("list", subtract("compact"))]).unwrap();
    assert_eq!(value(&cluster, "list").as_deref(), Some(""), "an empty list is a value");
    alter(&mut cluster, t.clone(), vec![("list", append("compact"))]).unwrap();
    assert_eq!(value(&cluster, "list").as_deref(), Some("compact"));
    let entries = cluster.log.len();
    alter(&mut cluster, t.clone(), vec![("a", set("1")), ("none", ConfigOperation::Delete)]).unwrap();
    assert_eq!(cluster.log.len(), entries, "what changes nothing writes nothing");
    alter(&mut cluster, t.clone(), vec![("a", ConfigOperation::Delete)]).unwrap();
    assert_eq!(value(&cluster, "a"), None);
}

#[test]
fn config_refusals() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("t", 1, 1)).unwrap();
    let t = || ConfigResource::topic("t");
    assert_eq!(
        alter(&mut cluster, ConfigResource::topic("none"), vec![("a", set("1"))]),
        Err(AlterConfigsError::UnknownTopic)
    );
    assert_eq!(
        alter(&mut cluster, ConfigResource::broker(BrokerId(9)), vec![("a", set("1"))]),
        Err(AlterConfigsError::UnknownBroker("9".into()))
    );
    let named = |kind, name: &str| ConfigResource { kind, name: name.into() };
    assert_refused!(
        alter(&mut cluster, named(ConfigResourceType::Broker, "x"), vec![]),
        AlterConfigsError::InvalidRequest(_),
        "no broker id"
    );
    assert_refused!(
        alter(&mut cluster, ConfigResource::group(""), vec![("a", set("1"))]),
        AlterConfigsError::InvalidRequest(_),
        "no name"
    );
    assert_refused!(
        alter(&mut cluster, ConfigResource::group("g".repeat(40_000)), vec![("a", set("1"))]),
        AlterConfigsError::InvalidRequest(_),
        "too long"
    );
    assert_refused!(
        alter(&mut cluster, t(), vec![("a", set("1")), ("a", set("2"))]),
        AlterConfigsError::InvalidRequest(_),
        "given twice"
    );
    assert_refused!(
        alter(&mut cluster, t(), vec![("a", ConfigOperation::OnlyForLists)]),
        AlterConfigsError::InvalidConfig(_),
        "need a list"
    );
    assert_refused!(
        alter(&mut cluster, t(), vec![("", set(""))]),
        AlterConfigsError::InvalidConfig(_),
        "empty"
    );
    let long = "x".repeat(CONFIG_VALUE_BYTES_MAX);
    alter(&mut cluster, t(), vec![("a", set(&long))]).unwrap();
    let grow = ConfigOperation::Append { items: "more".into(), default: None };
    assert_refused!(
        alter(&mut cluster, t(), vec![("a", grow)]),
        AlterConfigsError::InvalidConfig(_),
        "longer"
    );
    let keys: Vec<String> = (0..=CONFIG_KEYS_MAX).map(|key| format!("k{key}")).collect();
    let many = keys.iter().map(|key| (key.as_str(), set("1"))).collect();
    assert_refused!(alter(&mut cluster, t(), many), AlterConfigsError::InvalidConfig(_), "1000 configs");
    cluster.check = Some(Arc::new(|_, configs| match configs.len() {
        0..=1 => Ok(()),
        _ => Err("one is enough".into()),
    }));
    assert_refused!(
        alter(&mut cluster, t(), vec![("b", set("1"))]),
        AlterConfigsError::InvalidConfig(_),
        "one is enough"
    );
    let swap = vec![("a", ConfigOperation::Delete), ("b", set("1"))];
    alter(&mut cluster, t(), swap).unwrap();

    let results = cluster.submit(IncrementalAlterConfigs {
        resources: vec![(t(), vec![]), (ConfigResource::all_brokers(), vec![]), (t(), vec![])],
        validate_only: false,
    });
    assert_eq!(results.len(), 2);
    assert_refused!(results[0].result.clone(), AlterConfigsError::InvalidRequest(_), "more than once");
    assert_eq!(results[1].result, Ok(()));
}

#[test]
fn resources_with_configs_are_bounded() {
    let mut cluster = Cluster::of(1);
    let one: crate::metadata::image::Configs = [(Arc::from("a"), Arc::from("1"))].into_iter().collect();
    for number in 0..CONFIG_RESOURCES_MAX {
        cluster.image.configs.insert(ConfigResource::group(format!("g{number}")), one.clone());
    }
    let request = |name: &str| IncrementalAlterConfigs {
        resources: vec![(ConfigResource::group(name), vec![("a".into(), set("2"))])],
        validate_only: false,
    };
    let result = |cluster: &Cluster, name| match cluster.decide(request(name)).response.unwrap() {
        Response::IncrementalAlterConfigs(mut results) => results.remove(0).result,
        other => panic!("{other:?}"),
    };
    assert_refused!(result(&cluster, "new"), AlterConfigsError::InvalidConfig(_), "no further");
    assert_eq!(result(&cluster, "g5"), Ok(()), "what has configs may change them");
}

#[test]
fn broker_configs_are_written_again() {
    let mut cluster = Cluster::of(1);
    for resource in [ConfigResource::all_brokers(), ConfigResource::broker(BrokerId(1))] {
        alter(&mut cluster, resource.clone(), vec![("a", set("1"))]).unwrap();
        let entries = cluster.log.len();
        alter(&mut cluster, resource, vec![("a", set("1"))]).unwrap();
        assert_eq!(cluster.log.len(), entries + 1, "brokers act on a repeated SET");
    }
}

#[test]
fn legacy_alter_replaces_all() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("t", 1, 1)).unwrap();
    let t = ConfigResource::topic("t");
    alter(&mut cluster, t.clone(), vec![("a", set("1")), ("b", set("2"))]).unwrap();
    let replace = |entries: &[(&str, &str)], validate_only| AlterConfigs {
        resources: vec![(
            t.clone(),
            entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        )],
        validate_only,
    };
    assert_eq!(cluster.submit(replace(&[("c", "3")], true))[0].result, Ok(()));
    assert_eq!(cluster.image.configs_of(&t).unwrap().len(), 2);
    assert_eq!(cluster.submit(replace(&[("b", "2"), ("c", "3")], false))[0].result, Ok(()));
    let keys: Vec<_> = cluster.image.configs_of(&t).unwrap().keys().map(|key| key.to_string()).collect();
    assert_eq!(keys, ["b", "c"]);
    let twice = cluster.submit(replace(&[("b", "2"), ("b", "3")], false)).remove(0).result;
    assert_refused!(twice, AlterConfigsError::InvalidRequest(_), "given twice");
    cluster.submit(replace(&[], false));
    assert!(cluster.image.configs_of(&t).is_none());
}
