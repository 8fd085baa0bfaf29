//! The tables, as data from which the statements of both databases are made.

use super::error::StoreError;

/// Raised with each change of the tables; [`Flavor::migration`] has the statements for it.
const VERSION: i64 = 1;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Id,
    Count,
    Flag,
    Text,
    Time,
    Json,
    /// Exact decimal text.
    Money,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Type,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) key: &'static [&'static str],
    /// The columns, in groups that tables and events share.
    groups: &'static [&'static [Column]],
}

/// The database that a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

const fn column(name: &'static str, kind: Type) -> Column {
    Column { name, kind }
}

const ID: &[Column] = &[column("id", Type::Id)];

/// `started`, except for the hint of its key.
const STARTED: &[Column] = &[
    column("at", Type::Time),
    column("provider", Type::Text),
    column("dialect", Type::Text),
    column("model", Type::Text),
    column("path", Type::Text),
    column("streaming", Type::Flag),
    column("initiator_id", Type::Text),
    column("metadata", Type::Json),
    column("client", Type::Text),
    column("client_session_id", Type::Text),
    column("user_agent", Type::Text),
    column("correlating_tool_call_id", Type::Text),
    column("credential_kind", Type::Text),
];

/// Both `started` and `ended` have one.
const HINT: &[Column] = &[column("credential_hint", Type::Text)];

/// `ended`, except for the hint, and for [`TOKENS`] and [`COST`], which come between the two groups.
const OUTCOME: &[Column] = &[
    column("outcome", Type::Text),
    column("status", Type::Count),
    column("error_type", Type::Text),
    column("key_attempts", Type::Count),
    column("rounds", Type::Count),
    column("injection", Type::Text),
];
const TIMES: &[Column] = &[
    column("duration_ms", Type::Count),
    column("time_to_first_token_ms", Type::Count),
];

const TOKENS: &[Column] = &[
    column("input", Type::Count),
    column("output", Type::Count),
    column("cache_read_input_tokens", Type::Count),
    column("cache_write_input_tokens", Type::Count),
];

const COST: &[Column] = &[column("cost", Type::Money), column("cost_currency", Type::Text)];

/// Each event between `started` and `ended`.
const EVENT: &[Column] = &[
    column("interception_id", Type::Id),
    column("sequence", Type::Count),
    column("at", Type::Time),
    column("msg_id", Type::Text),
];

const EVENT_KEY: &[&str] = &["interception_id", "sequence"];

const PROMPT: &[Column] = &[column("prompt", Type::Text)];

const ROUND: &[Column] = &[column("model", Type::Text), column("service_tier", Type::Text)];
const DETAILS: &[Column] = &[column("extra", Type::Json)];

const CALL: &[Column] = &[
    column("tool_call_id", Type::Text),
    column("tool", Type::Text),
    column("server", Type::Text),
    column("server_url", Type::Text),
    column("args", Type::Json),
    column("injected", Type::Flag),
    column("invocation_error", Type::Text),
    column("duration_ms", Type::Count),
];

const THOUGHT: &[Column] = &[column("source", Type::Text), column("content", Type::Text)];

const INTERCEPTIONS: Table = Table {
    name: "interceptions",
    key: &["id"],
    groups: &[ID, STARTED, HINT, OUTCOME, TOKENS, COST, TIMES],
};

const PROMPTS: Table = Table {
    name: "prompts",
    key: EVENT_KEY,
    groups: &[EVENT, PROMPT],
};

const TOKEN_USAGE: Table = Table {
    name: "token_usage",
    key: EVENT_KEY,
    groups: &[EVENT, ROUND, TOKENS, DETAILS, COST],
};

const TOOL_USAGE: Table = Table {
    name: "tool_usage",
    key: EVENT_KEY,
    groups: &[EVENT, CALL],
};

const MODEL_THOUGHTS: Table = Table {
    name: "model_thoughts",
    key: EVENT_KEY,
    groups: &[EVENT, THOUGHT],
};

const TABLES: &[&Table] = &[&INTERCEPTIONS, &PROMPTS, &TOKEN_USAGE, &TOOL_USAGE, &MODEL_THOUGHTS];

/// The table with the version of the others; it has one row.
const VERSION_TABLE: &str = "record_schema";

/// Its answer is the version of the tables, or no row.
pub(super) const READ_VERSION: &str = "SELECT version FROM record_schema";

/// The kind of an event's row. Rows are written in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Started,
    Prompt,
    Tokens,
    Tool,
    Thought,
    Ended,
}

// === impl Kind ===

impl Kind {
    /// In the order of their declaration, so a kind as a number is its place here.
    pub(super) const ALL: [Self; 6] = [
        Self::Started,
        Self::Prompt,
        Self::Tokens,
        Self::Tool,
        Self::Thought,
        Self::Ended,
    ];

    /// The kind of the event with this name.
    pub(super) fn of(event: &str) -> Option<Self> {
        Some(match event {
            "started" => Self::Started,
            "prompt_usage" => Self::Prompt,
            "token_usage" => Self::Tokens,
            "tool_usage" => Self::Tool,
            "model_thought" => Self::Thought,
            "ended" => Self::Ended,
            _ => return None,
        })
    }

    pub(super) fn table(self) -> &'static Table {
        match self {
            Self::Started | Self::Ended => &INTERCEPTIONS,
            Self::Prompt => &PROMPTS,
            Self::Tokens => &TOKEN_USAGE,
            Self::Tool => &TOOL_USAGE,
            Self::Thought => &MODEL_THOUGHTS,
        }
    }

    /// The columns that an event of this kind fills.
    pub(super) fn columns(self) -> impl Iterator<Item = &'static Column> {
        let groups: &[&[Column]] = match self {
            Self::Started => &[ID, STARTED, HINT],
            Self::Ended => &[ID, HINT, OUTCOME, TOKENS, COST, TIMES],
            _ => self.table().groups,
        };
        groups.iter().copied().flatten()
    }

    pub(super) fn column_names(self) -> String {
        let names: Vec<_> = self.columns().map(|column| column.name).collect();
        names.join(", ")
    }

    /// `INSERT INTO table (columns) values ON CONFLICT …`: an existing row stays, and the two halves of an interception
    /// meet in one row.
    pub(super) fn insert(self, values: &str) -> String {
        let (table, columns, key) = (self.table().name, self.column_names(), self.table().key.join(", "));
        let action = match self {
            Self::Started | Self::Ended => {
                let sets: Vec<_> = self
                    .columns()
                    .filter(|column| column.name != "id")
                    .map(|column| match (column.name, self) {
                        // The key tried last counts, in whatever order the halves come.
                        (hint @ "credential_hint", Self::Started) => {
                            format!("{hint} = COALESCE({table}.{hint}, excluded.{hint})")
                        }
                        (hint @ "credential_hint", _) => format!("{hint} = COALESCE(excluded.{hint}, {table}.{hint})"),
                        (name, _) => format!("{name} = excluded.{name}"),
                    })
                    .collect();
                format!("UPDATE SET {}", sets.join(", "))
            }
            _ => "NOTHING".to_owned(),
        };
        format!("INSERT INTO {table} ({columns}) {values} ON CONFLICT ({key}) DO {action}")
    }
}

// === impl Flavor ===

impl Flavor {
    fn type_name(self, kind: Type) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => match kind {
                Type::Count | Type::Flag => "INTEGER",
                Type::Id | Type::Text | Type::Time | Type::Json | Type::Money => "TEXT",
            },
            #[cfg(feature = "postgres")]
            Self::Postgres => match kind {
                Type::Id => "uuid",
                Type::Count => "bigint",
                Type::Flag => "boolean",
                Type::Text => "text",
                Type::Time => "timestamptz",
                Type::Json => "jsonb",
                Type::Money => "numeric",
            },
        }
    }

    /// Makes the table that [`READ_VERSION`] reads.
    pub(super) fn create_version(self) -> String {
        let kind = self.type_name(Type::Count);
        format!("CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version {kind} NOT NULL)")
    }

    /// The statements that bring tables of `version` up to date; `None` if there are no tables yet. All of them run in
    /// one transaction.
    pub(super) fn upgrade(self, version: Option<i64>) -> Result<Vec<String>, StoreError> {
        let from = version.unwrap_or(0);
        if from > VERSION {
            return Err(StoreError::Version(from));
        }
        let mut statements: Vec<_> = (from..VERSION).flat_map(|from| self.migration(from)).collect();
        if from < VERSION {
            statements.push(format!("DELETE FROM {VERSION_TABLE}"));
            statements.push(format!("INSERT INTO {VERSION_TABLE} VALUES ({VERSION})"));
        }
        Ok(statements)
    }

    /// The statements that lead from version `from` of the tables to the next.
    fn migration(self, from: i64) -> Vec<String> {
        match from {
            0 => {
                let mut statements: Vec<_> = TABLES.iter().map(|table| self.create(table)).collect();
                statements.push("CREATE INDEX IF NOT EXISTS interceptions_at ON interceptions (at)".to_owned());
                statements
            }
            _ => Vec::new(),
        }
    }

    fn create(self, table: &Table) -> String {
        let mut parts: Vec<_> = table
            .groups
            .iter()
            .copied()
            .flatten()
            .map(|column| format!("{} {}", column.name, self.type_name(column.kind)))
            .collect();
        let required = table.key.iter().map(|name| format!("CHECK ({name} IS NOT NULL)"));
        parts.extend(required);
        parts.push(format!("PRIMARY KEY ({})", table.key.join(", ")));
        format!("CREATE TABLE IF NOT EXISTS {} ({})", table.name, parts.join(", "))
    }
}
