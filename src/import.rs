//! `talaria import`: brings over what another server stored.
//!
//! Two walks through the source: the first finds out who continues whom, the second writes, parents first, one record
//! at a time. What is there already is left alone, so an import may be repeated, and one that was stopped goes on.

mod convert;
mod items;
mod lineage;
mod names;
mod record;
mod report;
mod source;
mod turn;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use talaria_domain::ids::ConversationId;
use talaria_runtime::clock;
use talaria_store::{Imported, ImportedConversation, Importer};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::convert::Place;
use self::lineage::{Beginnings, Entry, Lineage};
use self::record::Record;
use self::report::Report;
use self::source::Source;

/// Opens the response store of a Hermes server.
pub fn open(from: &Path) -> anyhow::Result<Source> {
    tokio::task::block_in_place(|| Source::open(from))
}

/// Imports a Hermes response store into `tenant` of the database, and prints a report.
///
/// Fails also when everything readable was imported, but not all was readable.
pub async fn hermes(
    source: &Source,
    database_url: &str,
    tenant: &str,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    talaria_store::migrate(database_url)
        .await
        .context("preparing the database")?;
    let importer = Importer::new(database_url, tenant.to_owned())?;
    let mut import = tokio::task::block_in_place(|| Import::survey(source, importer, tenant));
    let finished = import.write(stop).await;
    import.progress.finish_and_clear();
    let said = write!(std::io::stdout(), "{}", import.report);
    finished?;
    said.context("printing the report")?;
    match import.report.skipped.len() {
        0 => Ok(()),
        skipped => bail!("not everything was imported: skipped {skipped}"),
    }
}

struct Import<'a> {
    source: &'a Source,
    importer: Importer,
    /// The readable records, and beside them their rows.
    entries: Vec<Entry>,
    rows: Vec<i64>,
    targets: Vec<Target>,
    report: Report,
    progress: ProgressBar,
}

/// A conversation and the record that it continues from.
struct Target {
    id: ConversationId,
    name: String,
    latest: usize,
}

impl<'a> Import<'a> {
    /// Reads every record once.
    fn survey(source: &'a Source, importer: Importer, tenant: &str) -> Self {
        let found = source.rows();
        let mut import = Self {
            source,
            importer,
            entries: Vec::new(),
            rows: Vec::new(),
            targets: Vec::new(),
            report: Report::default(),
            progress: progress(found.rows.len()),
        };
        for row in found.rows {
            match read(source, row) {
                Ok((entry, _)) => {
                    import.entries.push(entry);
                    import.rows.push(row);
                }
                Err(problem) => import.report.skipped.push(problem),
            }
            import.progress.inc(1);
        }
        if let Some(damage) = found.damage {
            let line = format!("whatever else the table of responses held: {damage}");
            import.report.skipped.push(line);
        }
        import.find_targets(tenant);
        import
    }

    /// Finds where each conversation goes on.
    fn find_targets(&mut self, tenant: &str) {
        let found = self.source.conversations();
        let by_id: HashMap<&str, usize> = self
            .entries
            .iter()
            .zip(0..)
            .map(|(entry, index)| (entry.id.as_str(), index))
            .collect();
        let lineage = Lineage::new(&self.entries);
        let latest = |pointer: &source::Pointer| {
            if let Some(problem) = names::problem_of_name(&pointer.name) {
                return Err(problem.to_owned());
            }
            let Some(id) = &pointer.response_id else {
                return Err("it names no response to continue from".to_owned());
            };
            let Some(index) = by_id.get(id.as_str()).copied() else {
                return Err(format!("it continues from {id}, which is not in the store"));
            };
            let completed = if self.entries[index].is_completed {
                Some(index)
            } else {
                lineage.parent(index, |_| true)
            };
            completed.ok_or_else(|| format!("it continues from {id}, which did not complete"))
        };
        for pointer in found.rows {
            match latest(&pointer) {
                Ok(latest) => self.targets.push(Target {
                    id: names::conversation_id(tenant, &pointer.name),
                    name: pointer.name,
                    latest,
                }),
                Err(problem) => {
                    let line = format!("conversation {:?}: {problem}", pointer.name);
                    self.report.skipped.push(line);
                }
            }
        }
        if let Some(damage) = found.damage {
            let line = format!("whatever else the table of conversations held: {damage}");
            self.report.skipped.push(line);
        }
    }

    /// Writes every record that is not there yet, and then the conversations.
    async fn write(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        self.drop_taken_names().await?;
        let total = self.rows.len() + self.targets.len();
        self.progress.reset();
        self.progress.set_length(total as u64);
        self.progress.set_message("writing");
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        // Whoever continues another has more messages.
        order.sort_by_key(|index| self.entries[*index].beginnings.messages());
        let entries = std::mem::take(&mut self.entries);
        let lineage = Lineage::new(&entries);
        let mut written = Written::default();
        for index in order {
            if stop.is_cancelled() {
                bail!("stopped before the end; run it again to go on");
            }
            self.write_response(&lineage, index, &mut written).await?;
            self.progress.inc(1);
        }
        self.write_sessions(&lineage, &written).await?;
        for target in std::mem::take(&mut self.targets) {
            if stop.is_cancelled() {
                bail!("stopped before the end; run it again to go on");
            }
            self.write_conversation(&lineage, target, &written).await?;
            self.progress.inc(1);
        }
        Ok(())
    }

    async fn drop_taken_names(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.targets.iter().map(|t| t.name.clone()).collect();
        let ids: Vec<_> = self.targets.iter().map(|target| target.id.0).collect();
        let taken = self.importer.names_taken(&names, &ids).await;
        let taken: HashSet<String> = taken
            .context("looking for conversations")?
            .into_iter()
            .collect();
        self.targets.retain(|target| !taken.contains(&target.name));
        let lines = taken.iter().map(|name| name_taken(name));
        self.report.skipped.extend(lines);
        Ok(())
    }

    async fn write_response(
        &mut self,
        lineage: &Lineage<'_>,
        index: usize,
        written: &mut Written,
    ) -> anyhow::Result<()> {
        let entry = lineage.entry(index);
        let read = tokio::task::block_in_place(|| read(self.source, self.rows[index]));
        let (record, accessed_at) = match read {
            Ok((_, content)) => content,
            Err(problem) => {
                self.report.skipped.push(problem);
                return Ok(());
            }
        };
        let id = names::response_id(&entry.id);
        let parent = lineage.parent(index, |one| written.0.contains_key(&one));
        #[expect(clippy::cast_precision_loss, reason = "seconds are far from that")]
        let now = clock::unix_seconds() as f64;
        let place = Place {
            id,
            parent: parent.map(|parent| {
                let parent = lineage.entry(parent);
                (names::response_id(&parent.id), parent.beginnings.messages())
            }),
            inherited_session: parent.and_then(|parent| written.0.get(&parent).cloned()),
            conversation: self
                .targets
                .iter()
                .find(|target| target.latest == index)
                .map(|target| target.id),
            used_at: accessed_at.unwrap_or(now),
        };
        let import = match convert::imported(&record, &place) {
            Ok(import) => import,
            Err(problem) => {
                self.report
                    .skipped
                    .push(format!("response {}: {problem}", entry.id));
                return Ok(());
            }
        };
        let outcome = self.importer.response_import(&import).await;
        match outcome.with_context(|| format!("writing response {}", entry.id))? {
            Imported::Written => self.report.responses.imported += 1,
            Imported::WasThere => self.report.responses.were_there += 1,
            Imported::Taken => {
                let line = format!("response {}: another tenant has one of this id", entry.id);
                self.report.skipped.push(line);
                return Ok(());
            }
        }
        written.0.insert(index, convert::session(&record, &place));
        self.report.unended += usize::from(record.was_active);
        let new = id.to_string();
        if new != entry.id {
            self.report.renamed.push((entry.id.clone(), new));
        }
        Ok(())
    }

    /// Lets each session go on from its newest completed record.
    async fn write_sessions(&self, lineage: &Lineage<'_>, written: &Written) -> anyhow::Result<()> {
        let age = |index: usize| {
            let entry = lineage.entry(index);
            (entry.created_at, entry.beginnings.messages(), &entry.id)
        };
        let mut newest: HashMap<&str, usize> = HashMap::new();
        for (index, session) in &written.0 {
            if lineage.entry(*index).is_completed {
                let known = newest.entry(session).or_insert(*index);
                if age(*index) > age(*known) {
                    *known = *index;
                }
            }
        }
        let (sessions, turns): (Vec<String>, Vec<Uuid>) = newest
            .into_iter()
            .map(|(session, index)| {
                let id = names::response_id(&lineage.entry(index).id);
                (session.to_owned(), id.0)
            })
            // A response is where its own session goes on anyway.
            .filter(|(session, turn)| *session != turn.hyphenated().to_string())
            .unzip();
        let outcome = self.importer.sessions_import(&sessions, &turns).await;
        outcome.context("writing where sessions go on")
    }

    async fn write_conversation(
        &mut self,
        lineage: &Lineage<'_>,
        target: Target,
        written: &Written,
    ) -> anyhow::Result<()> {
        let id_of = |index: usize| names::response_id(&lineage.entry(index).id).0;
        if !written.0.contains_key(&target.latest) {
            let latest = &lineage.entry(target.latest).id;
            let line = format!(
                "conversation {:?}: it continues from {latest}, which was not imported",
                target.name
            );
            self.report.skipped.push(line);
            return Ok(());
        }
        let import = ImportedConversation {
            id: target.id.0,
            latest: id_of(target.latest),
            before: lineage.ancestors(target.latest).map(id_of).collect(),
            name: target.name,
        };
        let outcome = self.importer.conversation_import(&import).await;
        match outcome.with_context(|| format!("writing conversation {:?}", import.name))? {
            Imported::Written => self.report.conversations.imported += 1,
            Imported::WasThere => self.report.conversations.were_there += 1,
            Imported::Taken => self.report.skipped.push(name_taken(&import.name)),
        }
        Ok(())
    }
}

/// The records that are in the database, and their sessions.
#[derive(Default)]
struct Written(BTreeMap<usize, String>);

fn name_taken(name: &str) -> String {
    format!("conversation {name:?}: there is another of this name")
}

/// A record, what is kept of it for the second walk, and when it was used last.
fn read(source: &Source, row: i64) -> Result<(Entry, (Record, Option<f64>)), String> {
    let row = source.row(row)?;
    let id = row.response_id;
    let record = Record::read(&row.data).map_err(|problem| format!("response {id}: {problem}"))?;
    let entry = Entry {
        id,
        session_id: record.session_id.clone(),
        created_at: record.created_at.unwrap_or_default(),
        is_completed: record.is_completed(),
        previous_response_id: record.previous_response_id.clone(),
        beginnings: Beginnings::of(&record.transcript),
    };
    Ok((entry, (record, row.accessed_at)))
}

/// A bar on a terminal, nothing elsewhere.
fn progress(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64).with_message("reading");
    // The template is ours; if it were wrong, the bar would look plain.
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}") {
        bar.set_style(style);
    }
    bar
}
