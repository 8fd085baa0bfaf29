//! Reads the past from the database of the records, with queries for SQLite and for PostgreSQL.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, InterruptHandle, OpenFlags, types::ValueRef};
use tokio_postgres::{NoTls, SimpleQueryMessage};
use uuid::Uuid;

use super::{
    history::{DATABASE, NAMES, Pictures, Point, Range, Requests, Table},
    hours::{self, BOUNDS, Sums},
    ledger::OTHER,
};

/// Prompts of one request.
const MAX_PROMPTS: usize = 50;

/// A database that has the records; it is only read.
pub struct History(Source);

enum Source {
    Sqlite(PathBuf),
    Postgres(Box<tokio_postgres::Config>),
}

type Row = Vec<Option<String>>;

// === impl History ===

impl History {
    /// A SQLite file that a [`SqliteSink`](tower_llm_bridge::record::sql::SqliteSink) writes.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Source::Sqlite(path.into()))
    }

    /// A PostgreSQL database that a [`PostgresSink`](tower_llm_bridge::record::sql::PostgresSink) writes.
    ///
    /// # Errors
    ///
    /// When the address cannot be read. The text does not quote it: it may hold a password.
    pub fn postgres(url: &str) -> Result<Self, String> {
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|_| "the address of the PostgreSQL database cannot be read")?;
        config.connect_timeout(Duration::from_secs(5));
        config.application_name("tower-llm-bridge page");
        // The address's own options may name the schema.
        let options = config.get_options().unwrap_or_default();
        let options = format!("{options} -c statement_timeout=10s -c default_transaction_read_only=on");
        config.options(options);
        Ok(Self(Source::Postgres(Box::new(config))))
    }

    pub(super) async fn pictures(&self, range: Range) -> Result<Pictures, String> {
        let mut pictures = range.empty(DATABASE);
        let (from, step) = (pictures.from, pictures.step);
        let dialect = Sql {
            is_sqlite: matches!(self.0, Source::Sqlite(_)),
            from,
            step,
        };
        let answers = self.ask(dialect.queries()).await?;
        let [times, duration, first_token, models, actors] =
            <[Vec<Row>; 5]>::try_from(answers).map_err(|_| "an answer is missing")?;
        for row in times {
            pictures.times.push(Point {
                step: count(&row, 0),
                value: Requests {
                    requests: count(&row, 1),
                    failed: count(&row, 2),
                    cancelled: count(&row, 3),
                },
            });
        }
        for (rows, buckets) in [
            (duration, &mut pictures.duration),
            (first_token, &mut pictures.first_token),
        ] {
            for row in rows {
                if let Some(bucket) = usize::try_from(count(&row, 0))
                    .ok()
                    .and_then(|index| buckets.get_mut(index))
                {
                    *bucket = count(&row, 1);
                }
            }
        }
        pictures.models = table(models).largest();
        pictures.actors = table(actors).largest();
        Ok(pictures)
    }

    /// The recorded prompts of one request.
    pub(super) async fn prompts(&self, id: Uuid) -> Result<Vec<String>, String> {
        let query =
            format!("SELECT prompt FROM prompts WHERE interception_id = '{id}' ORDER BY sequence LIMIT {MAX_PROMPTS}");
        let rows = self.ask(vec![query]).await?.into_iter().flatten();
        Ok(rows.filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// The rows of each query, all values as text. The queries hold no text of others.
    async fn ask(&self, queries: Vec<String>) -> Result<Vec<Vec<Row>>, String> {
        match &self.0 {
            Source::Sqlite(path) => {
                let path = path.clone();
                let opened = tokio::task::spawn_blocking(move || open_sqlite(&path)).await;
                let connection = opened.map_err(|error| error.to_string())?;
                let connection = connection.map_err(|error| error.to_string())?;
                let _interrupt = InterruptOnDrop(connection.get_interrupt_handle());
                let asked = tokio::task::spawn_blocking(move || ask_sqlite(&connection, &queries)).await;
                asked
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())
            }
            Source::Postgres(config) => ask_postgres(config, &queries).await.map_err(|error| error.to_string()),
        }
    }
}

/// Ends a query for which nobody waits any more.
struct InterruptOnDrop(InterruptHandle);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

fn open_sqlite(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    Ok(connection)
}

fn ask_sqlite(connection: &Connection, queries: &[String]) -> rusqlite::Result<Vec<Vec<Row>>> {
    let read = |query: &String| {
        let mut statement = connection.prepare(query)?;
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|column| {
                    Ok(match row.get_ref(column)? {
                        ValueRef::Null | ValueRef::Blob(_) => None,
                        ValueRef::Integer(number) => Some(number.to_string()),
                        ValueRef::Real(number) => Some(number.to_string()),
                        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    })
                })
                .collect()
        })?;
        rows.collect()
    };
    queries.iter().map(read).collect()
}

async fn ask_postgres(
    config: &tokio_postgres::Config,
    queries: &[String],
) -> Result<Vec<Vec<Row>>, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(connection);
    let mut answers = Vec::new();
    for query in queries {
        let messages = client.simple_query(query).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        });
        answers.push(rows.collect());
    }
    drop(client);
    driver.abort();
    Ok(answers)
}

/// A count as a database writes a sum of counts: an integer or, over 63 bits, an approximation.
fn count(row: &Row, column: usize) -> u64 {
    let text = row.get(column).and_then(Option::as_deref).unwrap_or_default();
    // Our counts are neither negative nor fractional; both casts saturate.
    text.parse::<u64>()
        .unwrap_or_else(|_| text.parse::<f64>().unwrap_or_default() as u64)
}

/// Rows of step, name, four counts, requests, currency, cost.
fn table(rows: Vec<Row>) -> Table {
    let mut table = Table::default();
    for row in rows {
        let name = row.get(1).and_then(Option::as_deref).unwrap_or(OTHER);
        let sums = table.at(name, count(&row, 0));
        let mut part = Sums::default();
        part.usage.input = count(&row, 2);
        part.usage.output = count(&row, 3);
        part.usage.cache_read_input_tokens = count(&row, 4);
        part.usage.cache_write_input_tokens = count(&row, 5);
        let currency = row.get(7).cloned().flatten();
        let amount = row.get(8).and_then(Option::as_deref);
        match currency
            .zip(amount)
            .and_then(|(currency, amount)| hours::cost(amount, currency))
        {
            Some(cost) => part.costs.push(cost),
            None => part.unpriced = count(&row, 6),
        }
        sums.merge(&part);
    }
    table
}

/// The queries in one database's dialect of SQL.
struct Sql {
    is_sqlite: bool,
    from: u64,
    step: u64,
}

// === impl Sql ===

impl Sql {
    /// Requests by time; both distributions; sums by model; sums by actor.
    fn queries(&self) -> Vec<String> {
        let (step, ended) = (self.step_of(), self.ended());
        let distribution = |column: &str| {
            let cases: String = BOUNDS
                .iter()
                .enumerate()
                .map(|(bucket, bound)| format!(" WHEN {column} <= {bound} THEN {bucket}"))
                .collect();
            let last = BOUNDS.len();
            format!(
                "SELECT CASE{cases} ELSE {last} END AS bucket, count(*) FROM interceptions \
                 WHERE {ended} AND {column} IS NOT NULL GROUP BY 1"
            )
        };
        vec![
            format!(
                "SELECT {step} AS step, count(*), \
                 sum(CASE WHEN outcome NOT IN ('completed', 'cancelled') THEN 1 ELSE 0 END), \
                 sum(CASE WHEN outcome = 'cancelled' THEN 1 ELSE 0 END) \
                 FROM interceptions WHERE {ended} GROUP BY 1 ORDER BY 1"
            ),
            distribution("duration_ms"),
            distribution("time_to_first_token_ms"),
            self.sums("COALESCE(model, 'other')"),
            self.sums("COALESCE(initiator_id, 'nobody')"),
        ]
    }

    fn sums(&self, name: &str) -> String {
        let (step, ended) = (self.step_of(), self.ended());
        let tokens = "COALESCE(input, 0) + COALESCE(output, 0) + COALESCE(cache_read_input_tokens, 0) \
                      + COALESCE(cache_write_input_tokens, 0)";
        // SQLite's `sum` fails over 63 bits, `total` does not. Its costs are text.
        let (sum, cost) = if self.is_sqlite {
            ("total", "printf('%.12f', total(CAST(cost AS REAL)))")
        } else {
            ("sum", "sum(cost)")
        };
        let tokens = if self.is_sqlite {
            format!("total({tokens})")
        } else {
            "sum(input::numeric + output + cache_read_input_tokens + cache_write_input_tokens)".to_owned()
        };
        format!(
            "WITH used AS (SELECT *, {name} AS name FROM interceptions WHERE {ended} AND \
             (input > 0 OR output > 0 OR cache_read_input_tokens > 0 OR cache_write_input_tokens > 0)), \
             largest AS (SELECT name FROM used GROUP BY name ORDER BY {tokens} DESC, name LIMIT {NAMES}) \
             SELECT {step} AS step, CASE WHEN name IN (SELECT name FROM largest) THEN name ELSE '{OTHER}' END AS name, \
             {sum}(input), {sum}(output), {sum}(cache_read_input_tokens), {sum}(cache_write_input_tokens), \
             count(*), cost_currency, {cost} FROM used GROUP BY 1, 2, cost_currency"
        )
    }

    fn ended(&self) -> String {
        if self.is_sqlite {
            let from = humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + Duration::from_secs(self.from));
            format!("at >= '{from}' AND outcome IS NOT NULL")
        } else {
            format!("at >= to_timestamp({}) AND outcome IS NOT NULL", self.from)
        }
    }

    fn step_of(&self) -> String {
        let (from, step) = (self.from, self.step);
        if self.is_sqlite {
            format!("(CAST(strftime('%s', at) AS INTEGER) - {from}) / {step}")
        } else {
            format!("((floor(extract(epoch FROM at))::bigint - {from}) / {step})")
        }
    }
}
