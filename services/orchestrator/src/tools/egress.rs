//! Where the servers that requests name may be: not inside, unless the operator says so.
//!
//! What is checked is what is connected to: a URL is parsed once, and each address that its host has is looked at
//! when the connection is made, so a name that changes its mind between a check and a connection gains nothing.

mod address;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use address::is_public;

/// The operator's rules about the addresses of servers that requests name.
#[derive(Debug, Default)]
pub struct Egress {
    allowed: Vec<Allowed>,
}

/// What the operator lets requests reach besides the public internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Network(IpNet),
    /// A host by its name, whatever its addresses are.
    Host(String),
}

/// Why a server is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its URL cannot be read")]
    NoUrl,
    #[error("its URL is neither https nor http")]
    Scheme,
    #[error("its URL holds a user or a password")]
    UserInfo,
    #[error("its address is not one that requests may name")]
    Address,
    #[error("it is not reached over https, as servers that the operator does not name must be")]
    Plain,
}

/// A URL whose host may be looked up.
#[derive(Clone, Debug)]
pub struct Checked {
    /// In its canonical spelling, which is the one that is connected to.
    pub url: String,
    rule: Rule,
}

/// Which addresses a host may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The operator names the host.
    Any,
    /// Public ones, and those that the operator names.
    Public,
    /// Those that the operator names: nothing else is spoken to without TLS.
    Named,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address, nor a network, nor the name of a host")]
pub struct NotAllowed(String);

impl FromStr for Allowed {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.to_canonical().into()));
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_host = text.chars().all(fits)
            && text.chars().any(|c| c.is_ascii_alphabetic())
            // `0x7f.1` and the like are addresses, however URLs are read.
            && host_of(&format!("https://{text}/")).is_some_and(|host| host.parse::<IpAddr>().is_err());
        if !is_host {
            return Err(NotAllowed(text.to_owned()));
        }
        Ok(Self::Host(plain_name(text)))
    }
}

impl Egress {
    pub fn new(allowed: Vec<Allowed>) -> Self {
        Self { allowed }
    }

    /// Checks what can be told from the URL alone, which is all where its host is an address.
    pub fn check(&self, url: &str) -> Result<Checked, Refusal> {
        let url = reqwest::Url::parse(url).map_err(|_| Refusal::NoUrl)?;
        let is_plain = match url.scheme() {
            "https" => false,
            "http" => true,
            _ => return Err(Refusal::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let host = host(&url).ok_or(Refusal::NoUrl)?;
        let rule = if self.names_host(host) {
            Rule::Any
        } else if is_plain {
            Rule::Named
        } else {
            Rule::Public
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            self.check_address(address, rule)?;
        }
        Ok(Checked {
            url: url.into(),
            rule,
        })
    }

    fn check_address(&self, address: IpAddr, rule: Rule) -> Result<(), Refusal> {
        let is_fine = match rule {
            Rule::Any => true,
            Rule::Public => is_public(address) || self.names_address(address),
            Rule::Named => self.names_address(address),
        };
        match rule {
            _ if is_fine => Ok(()),
            Rule::Named if is_public(address) => Err(Refusal::Plain),
            Rule::Any | Rule::Public | Rule::Named => Err(Refusal::Address),
        }
    }

    fn names_host(&self, host: &str) -> bool {
        let name = plain_name(host);
        self.allowed
            .iter()
            .any(|allowed| matches!(allowed, Allowed::Host(known) if *known == name))
    }

    fn names_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.iter().any(
            |allowed| matches!(allowed, Allowed::Network(network) if network.contains(&address)),
        )
    }
}

/// Looks names up as `inner` does, and hands out their addresses if every one of them may be connected to.
#[derive(Debug)]
pub struct Guarded<R> {
    egress: Arc<Egress>,
    rule: Rule,
    inner: Arc<R>,
}

/// Looks names up as the system does.
#[derive(Debug)]
pub struct System;

impl<R> Guarded<R> {
    pub fn new(egress: Arc<Egress>, checked: &Checked, inner: R) -> Self {
        Self {
            egress,
            rule: checked.rule,
            inner: Arc::new(inner),
        }
    }
}

impl<R: Resolve + 'static> Resolve for Guarded<R> {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, rule) = (Arc::clone(&self.egress), self.rule);
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let found: Vec<SocketAddr> = inner.resolve(name).await?.collect();
            for address in &found {
                egress.check_address(address.ip(), rule)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

fn host_of(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    host(&url).map(str::to_owned)
}

/// The host without the brackets of an IPv6 address.
fn host(url: &reqwest::Url) -> Option<&str> {
    let host = url.host_str()?;
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

fn plain_name(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
