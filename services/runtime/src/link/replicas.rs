//! All the processes that serve one service, found by a list of addresses or by name.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::Uri;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::member::{Health, Member};
use super::set::Set;
use super::{Link, bearer};

/// How often names are looked up: while a server is well, and while none is.
const LOOK_UP: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(500));
/// How long a look-up may take.
const LOOK_UP_TAKES: Duration = Duration::from_secs(5);
/// Servers outside the list that are remembered.
const OTHERS: usize = 32;

/// The servers of one service. Clones share them.
#[derive(Clone, Debug)]
pub struct Replicas(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Local(Link),
    Remote(Arc<Remote>),
}

#[derive(Debug)]
struct Remote {
    bearer: Option<http::HeaderValue>,
    listed: Vec<Uri>,
    set: Arc<Set>,
    /// The addresses behind each name, as it was last looked up.
    found: Mutex<BTreeMap<String, Vec<String>>>,
    /// Asked for by address, not on the list.
    others: Mutex<HashMap<String, Arc<Member>>>,
    /// Looks names up for as long as this, or a link made from it, is there.
    look_up: OnceLock<AbortOnDropHandle<()>>,
}

impl Replicas {
    /// The one server of this process.
    pub fn local(link: Link) -> Self {
        Self(Kind::Local(link))
    }

    /// The servers at `urls` (`http://host:port`). A host that is a name stands for all its addresses, which are looked
    /// up again and again. Each server is connected to at once, and again whenever its connection breaks.
    ///
    /// With a token, each call carries it as `authorization: Bearer …`. Must be called in a Tokio runtime.
    pub fn remote(urls: &[String], token: Option<&str>) -> anyhow::Result<Self> {
        let listed: Result<Vec<Uri>, _> = urls.iter().map(|url| url.parse()).collect();
        let bearer = token.map(bearer);
        let remote = Arc::new(Remote {
            bearer: bearer.transpose()?,
            listed: listed?,
            set: Arc::default(),
            found: Mutex::default(),
            others: Mutex::default(),
            look_up: OnceLock::new(),
        });
        remote.show(&[])?;
        if remote.listed.iter().any(is_name) {
            let runtime = tokio::runtime::Handle::try_current()?;
            let looking = runtime.spawn(look_up_again(Arc::downgrade(&remote)));
            let looking = AbortOnDropHandle::new(looking);
            remote.look_up.get_or_init(|| looking);
        }
        Ok(Self(Kind::Remote(remote)))
    }

    /// A link that gives each call to the least busy server. A call that was not sent, or that only reads, goes on to
    /// another one when its server is lost.
    pub fn link(&self) -> Link {
        match &self.0 {
            Kind::Local(link) => link.clone(),
            Kind::Remote(remote) => Arc::clone(&remote.set).link(Arc::clone(remote)),
        }
    }

    /// A link to each server that is well, the least busy first.
    pub fn each(&self) -> Vec<Link> {
        match &self.0 {
            Kind::Local(link) => vec![link.clone()],
            Kind::Remote(remote) => {
                let members = remote.set.by_load().into_iter();
                members.map(|member| remote.link_to(member)).collect()
            }
        }
    }

    /// The same once it was found out how they are, if none is known to be well yet.
    ///
    /// Right after the start, one that says that it cannot serve may be all that is known.
    pub async fn each_known(&self) -> Vec<Link> {
        if let Kind::Remote(remote) = &self.0 {
            remote.set.known().await;
        }
        self.each()
    }

    /// A link to the server at exactly this address, also if it is not on the list; none if that is no address.
    ///
    /// In one process, that is the only one there is.
    pub fn at(&self, url: &str) -> Option<Link> {
        match &self.0 {
            Kind::Local(link) => Some(link.clone()),
            Kind::Remote(remote) => {
                let member = remote.member_at(url).ok()?;
                Some(remote.link_to(member))
            }
        }
    }

    /// Whether there is one server, and it is in this process.
    pub fn is_local(&self) -> bool {
        matches!(self.0, Kind::Local(_))
    }
}

impl Remote {
    fn link_to(self: &Arc<Self>, member: Arc<Member>) -> Link {
        let changed = Arc::clone(&self.set.changed);
        Arc::new(Set::of(member, changed)).link(Arc::clone(self))
    }

    /// Has the set be those with a fixed address, and `found`.
    fn show(&self, found: &[String]) -> Result<(), tonic::transport::Error> {
        let before = self.set.members();
        let fixed = self.listed.iter().filter(|uri| !is_name(uri));
        let mut members: Vec<Arc<Member>> = Vec::new();
        for url in fixed.map(plain).chain(found.iter().cloned()) {
            if members.iter().any(|member| member.url == url) {
                continue;
            }
            members.push(match before.iter().find(|member| member.url == url) {
                Some(member) => Arc::clone(member),
                None => self.new_member(url)?,
            });
        }
        self.set.replace(members);
        Ok(())
    }

    /// Looks the names up, all at once. One that cannot be looked up keeps the addresses that it had.
    async fn look_up(&self) {
        let names = self.listed.iter().filter(|uri| is_name(uri));
        let found = futures::future::join_all(names.map(addresses)).await;
        let mut known = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (uri, addresses) in self.listed.iter().filter(|uri| is_name(uri)).zip(found) {
            if let Some(addresses) = addresses {
                known.insert(plain(uri), addresses);
            }
        }
        let found: Vec<String> = known.values().flatten().cloned().collect();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = known;
        if let Err(error) = self.show(&found) {
            tracing::warn!(%error, "an address cannot be used");
        }
    }

    fn member_at(&self, url: &str) -> anyhow::Result<Arc<Member>> {
        let url = plain(&url.parse()?);
        if let Some(member) = self
            .set
            .members()
            .into_iter()
            .find(|member| member.url == url)
        {
            return Ok(member);
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = others.get(&url) {
            return Ok(Arc::clone(member));
        }
        if others.len() >= OTHERS {
            // Those that are gone are not asked for ever.
            others.retain(|_, member| member.health() != Health::Silent || member.calls() > 0);
        }
        if others.len() >= OTHERS {
            others.retain(|_, member| member.calls() > 0);
        }
        let member = self.new_member(url.clone())?;
        others.insert(url, Arc::clone(&member));
        Ok(member)
    }

    fn new_member(&self, url: String) -> Result<Arc<Member>, tonic::transport::Error> {
        let changed: Arc<Notify> = Arc::clone(&self.set.changed);
        Member::new(url, self.bearer.clone(), changed)
    }
}

async fn look_up_again(remote: Weak<Remote>) {
    loop {
        let pause = {
            let Some(remote) = remote.upgrade() else {
                return;
            };
            remote.look_up().await;
            let is_well = !remote.set.by_load().is_empty();
            if is_well { LOOK_UP.0 } else { LOOK_UP.1 }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The addresses behind a name; none if they cannot be told.
async fn addresses(uri: &Uri) -> Option<Vec<String>> {
    let (host, port) = (uri.host()?, uri.port_u16().unwrap_or(80));
    match tokio::time::timeout(LOOK_UP_TAKES, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(addresses)) => Some(addresses.map(|at| format!("http://{at}")).collect()),
        Ok(Err(error)) => {
            tracing::debug!(host, %error, "could not look a name up");
            None
        }
        Err(_) => {
            tracing::debug!(host, "looking a name up took too long");
            None
        }
    }
}

/// Whether the host has to be looked up. `localhost` is left to the connection, which tries both its addresses.
fn is_name(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host != "localhost" && bare.parse::<IpAddr>().is_err() && uri.scheme_str() != Some("https")
}

/// `scheme://host:port`, one spelling for one address.
fn plain(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    match uri.authority() {
        Some(authority) => format!("{scheme}://{authority}"),
        None => uri.to_string(),
    }
}
