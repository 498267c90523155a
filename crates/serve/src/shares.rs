//! How many connections one address has: whoever opens all that there are would keep others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of each address that are open.
#[derive(Clone)]
pub(crate) struct Shares {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's part, until it ends.
pub(crate) struct Share {
    shares: Shares,
    of: IpAddr,
}

impl Shares {
    /// Shares of so many connections at most.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// A part for a connection from this address; none where it has all of its own.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Share> {
        let of = whose(from);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(of).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), of })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
            }
        }
    }
}

/// The address, or of IPv6 the network that one host has to itself (RFC 6177).
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_share() {
        let shares = Shares::new(2);
        let enter = |address: &str| shares.enter(address.parse().expect("an address"));
        let (first, second) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some() && enter("192.0.2.1").is_none());
        let other = (enter("2001:db8::1"), enter("2001:db8::2:3"));
        assert!(other.0.is_some() && other.1.is_some() && enter("2001:db8::4").is_none());
        assert!(enter("2001:db8:0:1::4").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop((second, other));
        assert!(shares.open.lock().expect("no panic").is_empty());
    }
}
