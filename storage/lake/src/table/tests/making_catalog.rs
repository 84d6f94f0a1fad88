//! A catalog that makes metadata itself, as a REST catalog does: of what it is handed it takes the updates and the requirements, by
//! iceberg's own code for both, and never looks at the finished file or at what was expected. It can be told to fail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use iceberg::spec::{Schema, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec};
use iceberg::{TableCreation, TableUpdate};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::{FaultyStore, Odds, pass_turn, table_at};
use crate::catalog::{Catalog, CatalogAnswer, CatalogError, Entry, NewMetadata, Stored, TableName};
use crate::table::TableAt;

pub struct MakingCatalog {
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    odds: Odds,
    tables: HashMap<TableName, (String, TableMetadata)>,
    late: Vec<(TableName, NewMetadata)>,
    numbered: u64,
}

impl MakingCatalog {
    pub fn new(seed: u64) -> Arc<MakingCatalog> {
        let random = StdRng::seed_from_u64(seed);
        let (tables, late) = (HashMap::new(), Vec::new());
        Arc::new(MakingCatalog {
            state: Mutex::new(State { random, odds: Odds::NONE, tables, late, numbered: 0 }),
        })
    }

    pub fn at(self: &Arc<Self>, store: &Arc<FaultyStore>) -> TableAt {
        TableAt { catalog: self.clone(), ..table_at(store) }
    }

    pub fn set_odds(&self, odds: Odds) {
        self.state.lock().unwrap().odds = odds;
    }

    /// What was to happen late does so now.
    pub fn settle(&self) {
        let mut state = self.state.lock().unwrap();
        while let Some((table, metadata)) = state.late.pop() {
            let _ = state.commit(&table, &metadata);
        }
    }

    /// Somebody else's change, which asks for nothing.
    pub fn change(&self, table: &TableName, updates: Vec<TableUpdate>) {
        let metadata = NewMetadata { updates, requirements: Vec::new(), ..no_metadata() };
        self.state.lock().unwrap().commit(table, &metadata).unwrap();
    }

    async fn before(&self) -> Result<(), CatalogError> {
        let turns = self.state.lock().unwrap().random.random_range(0..4);
        for _ in 0..turns {
            pass_turn().await;
        }
        let mut state = self.state.lock().unwrap();
        if !state.late.is_empty() && state.random.random_bool(0.3) {
            let (table, metadata) = state.late.remove(0);
            let _ = state.commit(&table, &metadata);
        }
        match state.chance(|odds| odds.fails) {
            true => Err(CatalogError::Unavailable("planned".to_owned())),
            false => Ok(()),
        }
    }
}

fn no_metadata() -> NewMetadata {
    NewMetadata {
        location: String::new(),
        number: 0,
        id: uuid::Uuid::nil(),
        json: bytes::Bytes::new(),
        columns: Vec::new(),
        updates: Vec::new(),
        requirements: Vec::new(),
    }
}

impl State {
    fn chance(&mut self, of: impl Fn(&Odds) -> f64) -> bool {
        let probability = of(&self.odds);
        probability > 0.0 && self.random.random_bool(probability)
    }

    fn keep(&mut self, table: &TableName, metadata: TableMetadata) -> Stored {
        let id = uuid::Uuid::new_v4();
        let location = format!("{}/metadata/{:05}-{id}.metadata.json", metadata.location(), self.numbered);
        self.numbered += 1;
        let made = Some(serde_json::to_vec(&metadata).unwrap().into());
        self.tables.insert(table.clone(), (location.clone(), metadata));
        Stored { metadata_location: location, made }
    }

    fn commit(&mut self, table: &TableName, metadata: &NewMetadata) -> Result<Stored, CatalogError> {
        let conflict = || CatalogError::Conflict(table.clone());
        let (location, before) = self.tables.get(table).ok_or_else(conflict)?;
        if metadata.requirements.iter().any(|requirement| requirement.check(Some(before)).is_err()) {
            return Err(conflict());
        }
        let mut builder = before.clone().into_builder(Some(location.clone()));
        // As they come over a wire.
        let updates = serde_json::to_string(&metadata.updates).unwrap();
        for update in serde_json::from_str::<Vec<TableUpdate>>(&updates).unwrap() {
            builder = update.apply(builder).unwrap();
        }
        let built = builder.build().unwrap();
        Ok(self.keep(table, built.metadata))
    }

    /// By iceberg's builder, which gives columns new ids.
    fn create(&mut self, table: &TableName, metadata: &NewMetadata) -> Result<Stored, CatalogError> {
        if self.tables.contains_key(table) {
            return Err(CatalogError::Conflict(table.clone()));
        }
        let json: serde_json::Value = serde_json::from_slice(&metadata.json).unwrap();
        let schema: Schema = serde_json::from_value(json["schemas"][0].clone()).unwrap();
        let spec: UnboundPartitionSpec = serde_json::from_value(json["partition-specs"][0].clone()).unwrap();
        let properties: HashMap<String, String> = serde_json::from_value(json["properties"].clone()).unwrap();
        let creation = TableCreation::builder()
            .name(table.table.clone())
            .location(metadata.location.clone())
            .schema(schema)
            .partition_spec(spec)
            .properties(properties)
            .build();
        let built = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap();
        Ok(self.keep(table, built.metadata))
    }
}

impl Catalog for MakingCatalog {
    fn load<'a>(&'a self, table: &'a TableName) -> CatalogAnswer<'a, Option<Entry>> {
        Box::pin(async move {
            self.before().await?;
            let state = self.state.lock().unwrap();
            Ok(state.tables.get(table).map(|(location, metadata)| Entry {
                metadata_location: location.clone(),
                version: location.clone(),
                metadata: Some(serde_json::to_vec(metadata).unwrap().into()),
            }))
        })
    }

    fn create<'a>(&'a self, table: &'a TableName, metadata: &'a NewMetadata) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            self.before().await?;
            let mut state = self.state.lock().unwrap();
            let stored = state.create(table, metadata)?;
            match state.chance(|odds| odds.loses_answer) {
                true => Err(CatalogError::Unknown("its answer was lost".to_owned())),
                false => Ok(stored),
            }
        })
    }

    fn swap<'a>(
        &'a self,
        table: &'a TableName,
        _expected: &'a Entry,
        metadata: &'a NewMetadata,
    ) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            self.before().await?;
            let mut state = self.state.lock().unwrap();
            if state.chance(|odds| odds.happens_late) {
                state.late.push((table.clone(), metadata.clone()));
                return Err(CatalogError::Unknown("later".to_owned()));
            }
            let stored = state.commit(table, metadata)?;
            match state.chance(|odds| odds.loses_answer) {
                true => Err(CatalogError::Unknown("its answer was lost".to_owned())),
                false => Ok(stored),
            }
        })
    }
}
