//! Slows down those who guess passwords: after some wrong ones for a user from one address, each further try has to wait.
//!
//! A try begins with [`Throttle::enter`] and ends with a verdict; one that ends without (nobody could compute it) does not count.
//! No more tries of one user and address are under way at once than may still be wrong for nothing: others wait for those to end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// Wrong passwords that cost no time.
const FREE: u32 = 10;
/// The wait after the first one beyond; it doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// Who did not try for so long starts anew.
const FORGET: Duration = Duration::from_secs(600);
/// Users and addresses that are remembered.
const MOST: usize = 8192;

type Key = [u8; 32];

/// Tries, by user and address (of IPv6 the first 64 bits, all of which one client has).
#[derive(Default)]
pub struct Throttle {
    tries: Mutex<HashMap<Key, Tries>>,
    /// Told when a try has ended.
    ended: Notify,
}

struct Tries {
    /// Wrong ones.
    count: u32,
    /// Those that nobody knows of yet whether they are wrong.
    under_way: u32,
    last: Instant,
    next: Instant,
}

/// A try that is under way.
pub struct Try<'a> {
    throttle: &'a Throttle,
    key: Key,
}

impl Throttle {
    /// Begins a try, as soon as no more are under way than may be wrong.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub async fn enter(&self, who: (&str, Option<IpAddr>)) -> Result<Try<'_>, Duration> {
        let key = key(who);
        loop {
            // Made before the look: what ends in between wakes it.
            let ended = self.ended.notified();
            if self.begin(key)? {
                return Ok(Try { throttle: self, key });
            }
            ended.await;
        }
    }

    /// Whether a try began; it does not while enough are under way.
    fn begin(&self, key: Key) -> Result<bool, Duration> {
        let now = Instant::now();
        let mut all = self.lock();
        if all.len() >= MOST && !all.contains_key(&key) {
            make_room(&mut all, now);
        }
        let tries = all.entry(key).or_insert(Tries { count: 0, under_way: 0, last: now, next: now });
        if tries.next > now {
            return Err(tries.next - now);
        }
        if now.duration_since(tries.last) > FORGET {
            tries.count = 0;
        }
        let more = tries.under_way < FREE.saturating_sub(tries.count).max(1);
        tries.under_way += u32::from(more);
        Ok(more)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Tries>> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Try<'_> {
    /// The password was wrong.
    pub fn failed(self) {
        let now = Instant::now();
        let mut all = self.throttle.lock();
        let Some(tries) = all.get_mut(&self.key) else { return };
        (tries.count, tries.last) = (tries.count.saturating_add(1), now);
        if let Some(beyond) = tries.count.checked_sub(FREE) {
            tries.next = now + LONGEST.min(FIRST * 2_u32.pow(beyond.min(6)));
        }
    }

    /// The password was right.
    pub fn passed(self) {
        if let Some(tries) = self.throttle.lock().get_mut(&self.key) {
            tries.count = 0;
        }
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let mut all = self.throttle.lock();
        if let Some(tries) = all.get_mut(&self.key) {
            tries.under_way = tries.under_way.saturating_sub(1);
            if tries.under_way == 0 && tries.count == 0 {
                all.remove(&self.key);
            }
        }
        drop(all);
        self.throttle.ended.notify_waiters();
    }
}

/// Forgets who starts anew anyway, and if these are none, the one who was wrong least often, the longest time ago: a flood of
/// made-up names, each tried once, pushes out no name that is under attack.
fn make_room(all: &mut HashMap<Key, Tries>, now: Instant) {
    all.retain(|_, tries| tries.under_way > 0 || now.duration_since(tries.last) <= FORGET);
    let idle = all.iter().filter(|(_, tries)| tries.under_way == 0);
    if all.len() >= MOST
        && let Some(least) = idle.min_by_key(|(_, tries)| (tries.count, tries.last)).map(|(key, _)| *key)
    {
        all.remove(&least);
    }
}

/// Of one size, however long a name a client makes up.
fn key((name, address): (&str, Option<IpAddr>)) -> Key {
    let address = address.map(|address| client(address).to_string()).unwrap_or_default();
    Sha256::new().chain_update(address).chain_update([0_u8]).chain_update(name).finalize().into()
}

/// What stands for a client: whoever has one IPv6 address has the 2⁶⁴ that begin alike.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// What a future gives without waiting.
    fn now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    /// Begins a try that does not have to wait for others.
    fn enter<'a>(throttle: &'a Throttle, who: (&str, Option<IpAddr>)) -> Result<Try<'a>, Duration> {
        now(pin!(throttle.enter(who))).expect("no others are under way")
    }

    fn fail(throttle: &Throttle, who: (&str, Option<IpAddr>)) {
        enter(throttle, who).expect("it may be tried").failed();
    }

    #[test]
    fn guessing_gets_slow_and_a_right_password_starts_anew() {
        let throttle = Throttle::default();
        let (here, there) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        for _ in 1..FREE {
            fail(&throttle, ("ann", here));
        }
        enter(&throttle, ("ann", here)).expect("free").passed();
        for _ in 0..FREE {
            fail(&throttle, ("ann", here));
        }
        let wait = enter(&throttle, ("ann", here)).err().expect("there were too many");
        assert!(wait <= LONGEST && !wait.is_zero());
        assert!(enter(&throttle, ("bob", here)).is_ok());
        assert!(enter(&throttle, ("ann", there)).is_ok());
    }

    #[test]
    fn guesses_at_one_time_are_no_more_than_may_be_wrong() {
        let throttle = Throttle::default();
        let who = ("ann", None);
        let mut under_way: Vec<Try<'_>> = (0..FREE).filter_map(|_| enter(&throttle, who).ok()).collect();
        assert_eq!(under_way.len(), FREE as usize);
        let mut next = Box::pin(throttle.enter(who));
        assert!(now(next.as_mut()).is_none(), "it waits for the others");
        assert!(enter(&throttle, ("bob", None)).is_ok(), "who waits for nobody");
        // One that nobody computed counts for nothing.
        drop(under_way.pop());
        under_way.push(now(next.as_mut()).expect("one has ended").expect("none was wrong"));
        drop(next);
        under_way.into_iter().for_each(Try::failed);
        assert!(enter(&throttle, who).is_err(), "all of them counted");
    }

    #[test]
    fn an_ipv6_client_has_many_addresses() {
        let throttle = Throttle::default();
        for n in 0..FREE {
            let address: IpAddr = format!("2001:db8::{n:x}").parse().expect("an address");
            fail(&throttle, ("ann", Some(address)));
        }
        let at = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        assert!(enter(&throttle, ("ann", at("2001:db8::ffff"))).is_err());
        assert!(enter(&throttle, ("ann", at("2001:db8:0:1::1"))).is_ok());
        assert_eq!(client(at("::ffff:127.0.0.1").expect("one")), IpAddr::from([127, 0, 0, 1]));
    }

    #[test]
    fn a_flood_of_names_forgets_none_that_is_under_attack() {
        let throttle = Throttle::default();
        for _ in 0..FREE {
            fail(&throttle, ("ann", None));
        }
        for n in 0..MOST + 10 {
            fail(&throttle, (&n.to_string(), None));
        }
        assert_eq!(throttle.lock().len(), MOST);
        assert!(enter(&throttle, ("ann", None)).is_err());
    }
}
