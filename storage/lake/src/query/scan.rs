//! A table as the engine reads it: some streams at a time, each of one file after the other.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningStatistics};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, Datum, PrimitiveLiteral};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::table::{DataFiles, TableError};

pub struct Scanned {
    files: Arc<DataFiles>,
}

impl Scanned {
    pub fn new(files: DataFiles) -> Scanned {
        Scanned { files: Arc::new(files) }
    }

    /// Which files may have rows that pass all filters, as far as their bounds say it.
    pub fn selected(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<usize>, DataFusionError> {
        let all = (0..self.files.files().len()).collect();
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all) };
        let schema = self.files.schema();
        let filter = session.create_physical_expr(filter, &DFSchema::try_from(schema.clone())?)?;
        // Of a filter that says nothing of bounds there is no predicate; the engine applies it to rows.
        let Ok(predicate) = PruningPredicate::try_new(filter, schema.clone()) else { return Ok(all) };
        let keep = predicate.prune(&Bounds { files: &self.files })?;
        Ok(all.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(index, _)| index).collect())
    }
}

impl fmt::Debug for Scanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} files", self.files.at().name, self.files.files().len())
    }
}

#[async_trait]
impl TableProvider for Scanned {
    fn schema(&self) -> SchemaRef {
        self.files.schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        // A file that is read has rows that do not pass.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let columns = match projection {
            Some(projection) => Arc::new(self.files.schema().project(projection)?),
            None => self.files.schema().clone(),
        };
        let selected = self.selected(session, filters)?;
        let streams = selected.len().clamp(1, session.config().target_partitions().max(1));
        let stream = |number: usize| {
            let selected = selected.iter().skip(number).step_by(streams).copied().collect();
            let files = self.files.clone();
            Arc::new(FileStream { files, selected, columns: columns.clone() }) as Arc<dyn PartitionStream>
        };
        let streams = (0..streams).map(stream).collect();
        Ok(Arc::new(StreamingTableExec::try_new(columns.clone(), streams, None, None, false, limit)?))
    }
}

/// Some of a table's files.
struct FileStream {
    files: Arc<DataFiles>,
    selected: Vec<usize>,
    columns: SchemaRef,
}

impl fmt::Debug for FileStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} files", self.selected.len(), self.files.files().len())
    }
}

impl PartitionStream for FileStream {
    fn schema(&self) -> &SchemaRef {
        &self.columns
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (files, columns) = (self.files.clone(), self.columns.clone());
        let batches = stream::iter(self.selected.clone()).then(move |index| {
            let (files, columns) = (files.clone(), columns.clone());
            async move { files.read(&files.files()[index], columns).await.map(StreamExt::boxed) }
        });
        let batches =
            batches.try_flatten().map_err(|error: TableError| DataFusionError::External(error.into()));
        Box::pin(RecordBatchStreamAdapter::new(self.columns.clone(), batches))
    }
}

/// What the manifests say of the files' columns. Of doubles they say nothing here: the engine has an order of its own for NaN
/// and for zeroes, in which bounds of others need not be bounds.
struct Bounds<'a> {
    files: &'a DataFiles,
}

impl Bounds<'_> {
    fn id(&self, column: &Column) -> Option<i32> {
        let field = self.files.schema().field_with_name(&column.name).ok()?;
        field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
    }

    fn bounds<'b>(
        &'b self,
        column: &Column,
        bound: impl Fn(&'b DataFile, i32) -> Option<&'b Datum>,
    ) -> Option<ArrayRef> {
        let id = self.id(column)?;
        let literals = || self.files.files().iter().map(|file| Some(bound(file, id)?.literal()));
        let int = |literal: Option<&PrimitiveLiteral>| match literal? {
            PrimitiveLiteral::Int(value) => Some(*value),
            _ => None,
        };
        let long = |literal: Option<&PrimitiveLiteral>| match literal? {
            PrimitiveLiteral::Int(value) => Some(i64::from(*value)),
            PrimitiveLiteral::Long(value) => Some(*value),
            _ => None,
        };
        let text = |literal: Option<&'b PrimitiveLiteral>| match literal? {
            PrimitiveLiteral::String(value) => Some(value.as_str()),
            _ => None,
        };
        Some(match self.files.schema().field_with_name(&column.name).ok()?.data_type() {
            DataType::Int32 => Arc::new(literals().map(int).collect::<Int32Array>()),
            DataType::Int64 => Arc::new(literals().map(long).collect::<Int64Array>()),
            DataType::Date32 => Arc::new(literals().map(int).collect::<Date32Array>()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                let instants = literals().map(long).collect::<TimestampMicrosecondArray>();
                Arc::new(instants.with_timezone_opt(zone.clone()))
            }
            DataType::Utf8 => Arc::new(literals().map(text).collect::<StringArray>()),
            _ => return None,
        })
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, id| file.lower_bounds().get(&id))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, id| file.upper_bounds().get(&id))
    }

    fn num_containers(&self) -> usize {
        self.files.files().len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let id = self.id(column)?;
        let counts = self.files.files().iter().map(|file| file.null_value_counts().get(&id).copied());
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.files.files().iter().map(|file| Some(file.record_count()));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
