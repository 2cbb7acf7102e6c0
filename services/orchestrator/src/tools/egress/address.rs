//! Which addresses are public: everything but what registries set aside, and what clouds answer secrets on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// IPv4 networks that are not the public internet. Source: IANA's IPv4 special-purpose address registry.
const INSIDE_V4: [Ipv4Net; 16] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    // Carriers' NAT.
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    // Link-local; clouds' metadata.
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    // Relays of 6to4.
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
    // Azure's own services, at an address that looks public.
    v4([168, 63, 129, 16], 32),
];

/// All public IPv6 addresses are in here; addresses that stand for IPv4 ones (mapped, compatible, NAT64), link-local,
/// unique local and multicast ones are not.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000_0000 << 96, 3);

/// What is not public in there. Source: IANA's IPv6 special-purpose address registry.
const INSIDE_V6: [Ipv6Net; 4] = [
    // Protocols' own, Teredo among them.
    v6(0x2001_0000 << 96, 23),
    v6(0x2001_0db8 << 96, 32),
    // 6to4: each stands for an IPv4 address.
    v6(0x2002_0000 << 96, 16),
    v6(0x3fff_0000 << 96, 20),
];

/// Whether the address is one of the public internet, in a form that stands for itself.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !INSIDE_V4.iter().any(|inside| inside.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_UNICAST.contains(&address)
                && !INSIDE_V6.iter().any(|inside| inside.contains(&address))
        }
    }
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: u128, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(address), prefix)
}
