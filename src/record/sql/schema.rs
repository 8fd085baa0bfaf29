//! The tables, as data from which the statements of both databases are made.

/// Raised with each change of the tables; [`Flavor::migration`] says how to get there.
pub(super) const VERSION: i64 = 1;

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
    pub(super) columns: &'static [Column],
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

const KEY: &[&str] = &["interception_id", "sequence"];

pub(super) const INTERCEPTIONS: Table = Table {
    name: "interceptions",
    key: &["id"],
    columns: &[
        column("id", Type::Id),
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
        column("credential_hint", Type::Text),
        column("outcome", Type::Text),
        column("status", Type::Count),
        column("error_type", Type::Text),
        column("key_attempts", Type::Count),
        column("rounds", Type::Count),
        column("injection", Type::Text),
        column("input", Type::Count),
        column("output", Type::Count),
        column("cache_read_input_tokens", Type::Count),
        column("cache_write_input_tokens", Type::Count),
        column("cost", Type::Money),
        column("cost_currency", Type::Text),
        column("duration_ms", Type::Count),
        column("time_to_first_token_ms", Type::Count),
    ],
};

/// The columns of [`INTERCEPTIONS`] that `started` fills; `ended` fills the rest. Both know a `credential_hint`.
const STARTED: &[&str] = &[
    "at",
    "provider",
    "dialect",
    "model",
    "path",
    "streaming",
    "initiator_id",
    "metadata",
    "client",
    "client_session_id",
    "user_agent",
    "correlating_tool_call_id",
    "credential_kind",
];

pub(super) const PROMPTS: Table = Table {
    name: "prompts",
    key: KEY,
    columns: &[
        column("interception_id", Type::Id),
        column("sequence", Type::Count),
        column("at", Type::Time),
        column("msg_id", Type::Text),
        column("prompt", Type::Text),
    ],
};

pub(super) const TOKEN_USAGE: Table = Table {
    name: "token_usage",
    key: KEY,
    columns: &[
        column("interception_id", Type::Id),
        column("sequence", Type::Count),
        column("at", Type::Time),
        column("msg_id", Type::Text),
        column("model", Type::Text),
        column("service_tier", Type::Text),
        column("input", Type::Count),
        column("output", Type::Count),
        column("cache_read_input_tokens", Type::Count),
        column("cache_write_input_tokens", Type::Count),
        column("extra", Type::Json),
        column("cost", Type::Money),
        column("cost_currency", Type::Text),
    ],
};

pub(super) const TOOL_USAGE: Table = Table {
    name: "tool_usage",
    key: KEY,
    columns: &[
        column("interception_id", Type::Id),
        column("sequence", Type::Count),
        column("at", Type::Time),
        column("msg_id", Type::Text),
        column("tool_call_id", Type::Text),
        column("tool", Type::Text),
        column("server", Type::Text),
        column("server_url", Type::Text),
        column("args", Type::Json),
        column("injected", Type::Flag),
        column("invocation_error", Type::Text),
        column("duration_ms", Type::Count),
    ],
};

pub(super) const MODEL_THOUGHTS: Table = Table {
    name: "model_thoughts",
    key: KEY,
    columns: &[
        column("interception_id", Type::Id),
        column("sequence", Type::Count),
        column("at", Type::Time),
        column("msg_id", Type::Text),
        column("source", Type::Text),
        column("content", Type::Text),
    ],
};

const TABLES: &[&Table] = &[&INTERCEPTIONS, &PROMPTS, &TOKEN_USAGE, &TOOL_USAGE, &MODEL_THOUGHTS];

/// The table with the version of the others; it has one row.
pub(super) const VERSION_TABLE: &str = "record_schema";

/// An event's kind as far as its row is concerned. The order is that of their writing.
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
    #[cfg(feature = "postgres")]
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
        self.table().columns.iter().filter(move |column| {
            let is_shared = matches!(column.name, "id" | "credential_hint");
            match self {
                Self::Started => is_shared || STARTED.contains(&column.name),
                Self::Ended => is_shared || !STARTED.contains(&column.name),
                _ => true,
            }
        })
    }

    fn column_names(self) -> String {
        let names: Vec<_> = self.columns().map(|column| column.name).collect();
        names.join(", ")
    }

    /// `INSERT INTO table (columns) values ON CONFLICT …`: a row that is there already stays, and of an interception the
    /// two halves meet in one row.
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

    /// The statements that lead from version `from` of the tables to the next.
    pub(super) fn migration(self, from: i64) -> Vec<String> {
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
            .columns
            .iter()
            .map(|column| format!("{} {}", column.name, self.type_name(column.kind)))
            .collect();
        let required = table.key.iter().map(|name| format!("CHECK ({name} IS NOT NULL)"));
        parts.extend(required);
        parts.push(format!("PRIMARY KEY ({})", table.key.join(", ")));
        format!("CREATE TABLE IF NOT EXISTS {} ({})", table.name, parts.join(", "))
    }
}
