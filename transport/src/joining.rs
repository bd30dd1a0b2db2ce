//! The places for connections without a certificate, of which there are [`MAX_JOINING`](crate::tuning::MAX_JOINING).
//!
//! Such a connection is there to redeem a token, and may do nothing else. So a connection that has shown no good token
//! yet gives its place up after [`TOKEN_LIMIT`](crate::tuning::TOKEN_LIMIT), and earlier if another one needs it: then
//! the oldest one goes of the address that has most of them. Connections that show nothing keep nobody out, however
//! many they are.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is known of a connection's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// It has not asked for anything, or was refused.
    Nothing,
    /// Its token is being looked up.
    Something,
    /// Its token is good.
    Token,
}

#[derive(Debug)]
struct Place<C> {
    number: u64,
    address: IpAddr,
    shown: Shown,
    connection: C,
}

/// The places, the oldest first. Pure.
#[derive(Debug)]
struct Places<C> {
    taken: Vec<Place<C>>,
    most: usize,
    next: u64,
}

impl<C> Places<C> {
    fn new(most: usize) -> Self {
        Self {
            taken: Vec::new(),
            most,
            next: 0,
        }
    }

    /// A place for a connection from this address, and the connection that had to go for it; none where all have shown
    /// a good token.
    fn take(&mut self, address: IpAddr, connection: C) -> Option<(u64, Option<C>)> {
        let mut gone = None;
        if self.taken.len() >= self.most {
            gone = Some(self.taken.remove(self.dispensable()?).connection);
        }
        let number = self.next;
        self.next += 1;
        self.taken.push(Place {
            number,
            address,
            shown: Shown::Nothing,
            connection,
        });
        Some((number, gone))
    }

    /// The oldest one without a good token, of the address that has most of them.
    fn dispensable(&self) -> Option<usize> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        let without = |place: &&Place<C>| place.shown != Shown::Token;
        for place in self.taken.iter().filter(without) {
            *counts.entry(place.address).or_default() += 1;
        }
        let most = counts.values().max()?;
        let is_dispensable = |place: &Place<C>| place.shown != Shown::Token && counts.get(&place.address) == Some(most);
        self.taken.iter().position(is_dispensable)
    }

    fn leave(&mut self, number: u64) {
        self.taken.retain(|place| place.number != number);
    }

    fn show(&mut self, number: u64, shown: Shown) {
        if let Some(place) = self.taken.iter_mut().find(|place| place.number == number) {
            place.shown = shown;
        }
    }

    fn shown(&self, number: u64) -> Shown {
        let place = self.taken.iter().find(|place| place.number == number);
        place.map_or(Shown::Nothing, |place| place.shown)
    }
}

/// The places of a server.
#[derive(Debug)]
pub(crate) struct Joining(Mutex<Places<quinn::Connection>>);

impl Joining {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Places::new(most))))
    }

    /// A place for a connection, and the connection that had to go for it.
    pub(crate) fn take(
        self: &Arc<Self>,
        connection: &quinn::Connection,
    ) -> Option<(JoinPlace, Option<quinn::Connection>)> {
        let address = connection.remote_address().ip().to_canonical();
        let (number, gone) = self.lock().take(address, connection.clone())?;
        let joining = self.clone();
        Some((JoinPlace { joining, number }, gone))
    }

    fn lock(&self) -> MutexGuard<'_, Places<quinn::Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection without a certificate; dropping it gives it up.
#[derive(Debug)]
pub struct JoinPlace {
    joining: Arc<Joining>,
    number: u64,
}

impl JoinPlace {
    /// Its token is being looked up: that may take longer than a connection may be silent.
    pub fn asks(&self) {
        self.joining.lock().show(self.number, Shown::Something);
    }

    /// Its token is good: it keeps its place.
    pub fn has_token(&self) {
        self.joining.lock().show(self.number, Shown::Token);
    }

    /// It was refused.
    pub fn is_refused(&self) {
        self.joining.lock().show(self.number, Shown::Nothing);
    }

    /// Whether it has asked for nothing yet, or was refused.
    pub(crate) fn is_idle(&self) -> bool {
        self.joining.lock().shown(self.number) == Shown::Nothing
    }
}

impl Drop for JoinPlace {
    fn drop(&mut self) {
        self.joining.lock().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_that_shows_nothing() {
        let mut places = Places::new(3);
        for number in 0..3 {
            assert_eq!(places.take(at(1), number), Some((number, None)));
        }
        places.show(0, Shown::Token);
        places.show(1, Shown::Something);
        assert_eq!(places.take(at(1), 3), Some((3, Some(1))));
        assert_eq!(places.take(at(1), 4), Some((4, Some(2))));
        places.show(3, Shown::Token);
        places.show(4, Shown::Token);
        assert_eq!(places.take(at(1), 5), None, "all have a token");
        places.leave(3);
        assert_eq!(places.take(at(1), 6), Some((5, None)));
    }

    #[test]
    fn the_address_with_most_of_them_loses_one() {
        let mut places = Places::new(4);
        places.take(at(9), 0);
        for number in 1..4 {
            places.take(at(1), number);
        }
        // However many come from there, the one from elsewhere stays.
        for number in 4..20 {
            let (_, gone) = places.take(at(1), number).unwrap();
            assert_ne!(gone, Some(0), "{number}");
        }
        let (_, gone) = places.take(at(2), 20).unwrap();
        assert_eq!(gone, Some(17));
    }
}
