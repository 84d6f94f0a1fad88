//! UpdateFeatures and AllocateProducerIds.

use super::*;

#[test]
fn producer_id_blocks_never_overlap() {
    let mut cluster = Cluster::of(1);
    let epoch = cluster.image.broker(BrokerId(1)).unwrap().epoch;
    let ask = AllocateProducerIds { broker: BrokerId(1), epoch };
    assert_eq!(cluster.submit(ask.clone()), Ok(ProducerIdBlock { first: 0, count: 1000 }));
    assert_eq!(cluster.submit(ask.clone()), Ok(ProducerIdBlock { first: 1000, count: 1000 }));
    assert_eq!(
        cluster.submit(AllocateProducerIds { broker: BrokerId(2), epoch }),
        Err(BrokerEpochError::NotRegistered(BrokerId(2)).into())
    );
    let given = BrokerEpoch(epoch.0 + 1);
    assert_eq!(
        cluster.submit(AllocateProducerIds { broker: BrokerId(1), epoch: given }),
        Err(BrokerEpochError::Stale { id: BrokerId(1), current: epoch, given }.into())
    );
    cluster.image.next_producer_id = i64::MAX - 999;
    assert_eq!(cluster.submit(ask), Err(AllocateProducerIdsError::Exhausted));
}

// ---- features

#[test]
fn feature_updates() {
    use FeatureUpdateType::*;
    let mut cluster = Cluster::of(1);
    let mut update = |name: &str, level, kind, validate_only| {
        let updates = vec![FeatureUpdate { name: name.into(), level, kind }];
        cluster.submit(UpdateFeatures { updates, validate_only }).map(|_| {
            let epoch = cluster.image.features_epoch;
            (cluster.image.features.get(name).copied(), epoch == cluster.image.last_offset)
        })
    };
    let refused = |result: Result<_, UpdateFeaturesError>, text: &str| {
        assert_refused!(result, UpdateFeaturesError::InvalidUpdateVersion(_), text);
    };
    let version = features::METADATA_VERSION;
    assert_eq!(update(version, 24, Upgrade, true), Ok((None, false)));
    assert_eq!(update(version, 24, Upgrade, false), Ok((Some(24), true)));
    assert_eq!(update(version, 25, Upgrade, false), Ok((Some(25), true)));
    refused(update(version, 26, Upgrade, false), "7 to 25");
    refused(update(version, -1, Upgrade, false), "negative");
    refused(update(version, 0, UnsafeDowngrade, false), "7 to 25");
    refused(update(version, 24, Upgrade, false), "downgrade must be asked for");
    refused(update("group.version", 1, Upgrade, false), "does not support");
    refused(update(version, 25, Unknown(9), false), "type 9");
    assert_eq!(update(version, 24, SafeDowngrade, false), Ok((Some(24), true)));
    refused(update(version, 25, SafeDowngrade, false), "lower");
    refused(update(version, 22, SafeDowngrade, false), "lost");
    refused(update(version, 22, UnsafeDowngrade, false), "not supported");
    assert_eq!(update(version, 24, Upgrade, false), Ok((Some(24), true)), "nothing to do");
    assert_eq!(update("unknown", 0, SafeDowngrade, false), Ok((None, true)), "off already");
    let both = |level| FeatureUpdate { name: version.into(), level, kind: Upgrade };
    assert_refused!(
        cluster.submit(UpdateFeatures { updates: vec![both(25), both(25)], validate_only: false }),
        UpdateFeaturesError::InvalidRequest(_),
        "twice"
    );
    assert_refused!(
        cluster.submit(UpdateFeatures { updates: vec![both(25); 1001], validate_only: false }),
        UpdateFeaturesError::InvalidRequest(_),
        "1000"
    );
    // A broker that cannot follow.
    let narrow = BTreeMap::from([(version.to_owned(), FeatureRange { min: 7, max: 24 })]);
    cluster.submit(RegisterBroker { features: narrow, ..registration(2, 2, None) }).unwrap();
    let result = cluster.submit(UpdateFeatures { updates: vec![both(25)], validate_only: false });
    assert_refused!(result, UpdateFeaturesError::InvalidUpdateVersion(_), "broker 2");
}
