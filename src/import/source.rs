//! The file that a Hermes server stores in, read from a copy: not even its side files are touched.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Files that belong together: the database, its write-ahead log, its rollback journal.
const SUFFIXES: [&str; 3] = ["", "-wal", "-journal"];
/// How often a file that is being written to is copied anew.
const COPIES: usize = 5;

/// The copy, open. It has no name any more, so it is gone with this process however that ends.
pub struct Source {
    database: Connection,
    has_times: bool,
    /// The columns that point to a response, best first; none without a table of conversations.
    pointers: Vec<&'static str>,
}

/// A row of `responses`.
pub struct Row {
    pub response_id: String,
    pub data: Vec<u8>,
    /// Unix seconds; none if it is not known.
    pub accessed_at: Option<f64>,
}

/// Rows that could be found.
pub struct Found<T> {
    pub rows: Vec<T>,
    /// Why there may be more.
    pub damage: Option<String>,
}

/// A name and the response that its conversation continues from.
pub struct Pointer {
    pub name: String,
    pub response_id: Option<String>,
}

impl Source {
    /// Copies the file and opens the copy.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let path = fs::canonicalize(path).with_context(|| format!("opening {}", path.display()))?;
        let copy = tempfile::Builder::new()
            .prefix("talaria-import-")
            .tempdir()
            .context("making a directory for a copy of the store")?;
        let database = copy_whole(&path, copy.path())?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(database, flags)
            .with_context(|| format!("opening the copy of {}", path.display()))?;
        // Otherwise a file that was cut off is refused as a whole.
        database
            .pragma_update(None, "writable_schema", true)
            .and_then(|()| tables(&database))
            .map_err(|error| refusal(&path, error))
            .and_then(|tables| {
                if tables.contains("responses") {
                    Ok(())
                } else {
                    bail!(
                        "{} is no Hermes response store: it has no table `responses`",
                        path.display()
                    )
                }
            })?;
        // What SQLite has opened stays open.
        copy.close().context("removing the copy's name")?;
        let columns = columns(&database, "responses").map_err(|error| refusal(&path, error))?;
        for needed in ["response_id", "data"] {
            if !columns.contains(needed) {
                bail!(
                    "{} is no Hermes response store: its table `responses` has no column `{needed}`",
                    path.display()
                );
            }
        }
        let known = self::columns(&database, "conversations").unwrap_or_default();
        let mut pointers = vec!["latest_completed_response_id", "response_id"];
        pointers.retain(|column| known.contains(*column) && known.contains("name"));
        Ok(Self {
            has_times: columns.contains("accessed_at"),
            database,
            pointers,
        })
    }

    /// Where the rows of `responses` are, as far as the file can be read.
    pub fn rows(&self) -> Found<i64> {
        /// A damaged page ends a walk; the others come to what is behind it from elsewhere.
        const WALKS: [&str; 4] = [
            "SELECT rowid FROM responses ORDER BY rowid",
            "SELECT rowid FROM responses ORDER BY rowid DESC",
            "SELECT rowid FROM responses ORDER BY response_id",
            "SELECT rowid FROM responses ORDER BY response_id DESC",
        ];
        let mut rows = BTreeSet::new();
        let mut damage = None;
        for walk in WALKS {
            match self.walk(walk, &mut rows) {
                Ok(()) if damage.is_none() => break,
                Ok(()) => {}
                Err(error) => damage = damage.or(Some(error.to_string())),
            }
        }
        Found {
            rows: rows.into_iter().collect(),
            damage,
        }
    }

    fn walk(&self, sql: &str, rows: &mut BTreeSet<i64>) -> rusqlite::Result<()> {
        let mut statement = self.database.prepare(sql)?;
        for row in statement.query_map([], |row| row.get(0))? {
            rows.insert(row?);
        }
        Ok(())
    }

    /// One row; the error says which, and why it cannot be read.
    pub fn row(&self, at: i64) -> Result<Row, String> {
        let time = if self.has_times {
            "accessed_at"
        } else {
            "NULL"
        };
        let sql = format!("SELECT response_id, data, {time} FROM responses WHERE rowid = ?");
        let row = self.database.prepare(&sql).and_then(|mut statement| {
            statement.query_row([at], |row| {
                let accessed_at = match row.get_ref(2)? {
                    ValueRef::Real(seconds) => Some(seconds),
                    #[expect(clippy::cast_precision_loss, reason = "seconds are far from that")]
                    ValueRef::Integer(seconds) => Some(seconds as f64),
                    _ => None,
                };
                Ok(Row {
                    response_id: text(row.get_ref(0)?),
                    data: bytes(row.get_ref(1)?).to_vec(),
                    accessed_at: accessed_at.filter(|at| (0.0..253_402_300_800.0).contains(at)),
                })
            })
        });
        row.map_err(|error| match self.response_id(at) {
            Ok(id) => format!("response {id}: it cannot be read: {error}"),
            Err(_) => format!("row {at} of the responses: it cannot be read: {error}"),
        })
    }

    /// Only this column, which comes before what is most likely damaged.
    fn response_id(&self, at: i64) -> rusqlite::Result<String> {
        let sql = "SELECT response_id FROM responses WHERE rowid = ?";
        self.database
            .query_row(sql, [at], |row| Ok(text(row.get_ref(0)?)))
    }

    /// The conversations, by name.
    pub fn conversations(&self) -> Found<Pointer> {
        let mut found = Found {
            rows: Vec::new(),
            damage: None,
        };
        if self.pointers.is_empty() {
            return found;
        }
        let pointer: Vec<String> = self
            .pointers
            .iter()
            .map(|column| format!("nullif({column}, '')"))
            .collect();
        let sql = format!(
            "SELECT name, coalesce({}, NULL) FROM conversations ORDER BY rowid",
            pointer.join(", ")
        );
        found.damage = self
            .pointed(&sql, &mut found.rows)
            .err()
            .map(|error| error.to_string());
        found.rows.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    fn pointed(&self, sql: &str, rows: &mut Vec<Pointer>) -> rusqlite::Result<()> {
        let mut statement = self.database.prepare(sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let response_id = match row.get_ref(1)? {
                ValueRef::Null => None,
                id => Some(text(id)),
            };
            let name = text(row.get_ref(0)?);
            rows.push(Pointer { name, response_id });
        }
        Ok(())
    }
}

/// Copies the file and what belongs to it, such that all of it is of the same instant.
fn copy_whole(path: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let beside = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let target = directory.join("response_store.db");
    for _ in 0..COPIES {
        let before = SUFFIXES.map(|suffix| stamp(&beside(path, suffix)));
        for suffix in SUFFIXES {
            let (from, to) = (beside(path, suffix), beside(&target, suffix));
            match fs::copy(&from, &to) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound && !suffix.is_empty() => {
                    let _ = fs::remove_file(&to);
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("copying {}", from.display()));
                }
            }
        }
        let after = SUFFIXES.map(|suffix| stamp(&beside(path, suffix)));
        if before == after {
            // A file may be read-only where it comes from.
            for suffix in SUFFIXES {
                make_writable(&beside(&target, suffix));
            }
            return Ok(target);
        }
    }
    bail!(
        "{} is being written to: stop the Hermes server, and import then",
        path.display()
    )
}

/// What changes when a file is written to; none if it is not there.
fn stamp(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    // If it cannot be done, opening the copy says so.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
}

fn tables(database: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table'";
    database
        .prepare(sql)?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn columns(database: &Connection, table: &str) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT name FROM pragma_table_info(?)";
    database
        .prepare(sql)?
        .query_map([table], |row| row.get(0))?
        .collect()
}

fn refusal(path: &Path, error: rusqlite::Error) -> anyhow::Error {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => anyhow::anyhow!("{path} is no SQLite file"),
        Some(ErrorCode::DatabaseCorrupt) => {
            anyhow::anyhow!("{path} is so damaged that nothing in it can be found")
        }
        _ => anyhow::Error::new(error).context(format!("reading {path}")),
    }
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => b"",
    }
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    }
}
