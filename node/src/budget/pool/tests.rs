use super::*;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

/// A pool of a hundred units with room for twenty, and a clock.
struct Site {
    pool: Pool,
    now: Duration,
}

/// One that has asked.
struct Asked {
    account: Account,
    units: u32,
    ticket: Ticket,
    told: oneshot::Receiver<()>,
}

/// A transfer under way.
struct Moving {
    ended: oneshot::Receiver<()>,
    ticket: Ticket,
    moved: Arc<AtomicU64>,
    is_active: Arc<AtomicBool>,
}

impl Moving {
    fn has_to_end(&mut self) -> bool {
        matches!(self.ended.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }
}

impl Asked {
    fn has(&mut self) -> bool {
        self.told.try_recv().is_ok()
    }
}

fn account(name: &str) -> Account {
    Account::of_stanzas(&[name.parse().unwrap()])
}

impl Site {
    fn new() -> Self {
        Self {
            pool: Pool::new(100, 20),
            now: Duration::ZERO,
        }
    }

    fn ask(&mut self, name: &str, units: u32) -> Asked {
        let (granted, told) = oneshot::channel();
        let account = account(name);
        let ticket = self.pool.ask(&account, (units, Urgency::Usual), granted, self.now);
        Asked {
            account,
            units,
            ticket,
            told,
        }
    }

    /// An ask that is granted at once.
    fn take(&mut self, name: &str, units: u32) -> Asked {
        let mut asked = self.ask(name, units);
        assert!(asked.has(), "{name} {units}: {:?}", self.pool);
        asked
    }

    /// An ask that is not.
    fn wait(&mut self, name: &str, units: u32) -> Asked {
        let mut asked = self.ask(name, units);
        assert!(!asked.has(), "{name} {units}: {:?}", self.pool);
        asked
    }

    fn give_back(&mut self, asked: Asked) {
        self.pool.give_back(&asked.account, asked.units, self.now);
    }

    fn withdraw(&mut self, asked: &Asked) {
        assert!(self.pool.withdraw(&asked.account, asked.ticket, self.now));
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn move_bytes(&mut self, name: &str, units: u32) -> Moving {
        let (end, ended) = oneshot::channel();
        let moved = Arc::<AtomicU64>::default();
        let is_active = Arc::new(AtomicBool::new(true));
        let bytes = (moved.clone(), is_active.clone());
        let ticket = self.pool.begin(&account(name), units, bytes, end, self.now);
        Moving {
            ended,
            ticket,
            moved,
            is_active,
        }
    }

    fn look(&mut self) -> bool {
        self.pool.look(self.now);
        self.pool.end_overdue(self.now).is_some()
    }
}

#[test]
fn an_account_that_holds_some_leaves_room_and_one_that_holds_nothing_may_have_it() {
    let mut site = Site::new();
    let first = site.take("a", 30);
    let _second = site.take("a", 50);
    let other = site.take("b", 15);
    let mut more = site.wait("a", 1);
    let _third = site.take("c", 5);
    site.give_back(other);
    assert!(!more.has());
    site.give_back(first);
    assert!(more.has());
}

/// A stanza alone on its node has all of it, and leaves room again when another one has come.
#[test]
fn an_account_that_is_alone_leaves_no_room() {
    let mut site = Site::new();
    let _first = site.take("a", 30);
    let second = site.take("a", 70);
    let mut other = site.wait("b", 1);
    site.give_back(second);
    assert!(other.has());
    site.give_back(other);
    let _second = site.wait("a", 60);
    site.pass(601);
    site.pool.look(site.now);
    assert_eq!(site.pool.waiting(), 0, "the other one was not here for long");
}

#[test]
fn who_holds_least_comes_first() {
    let mut site = Site::new();
    let all = site.take("a", 60);
    let _b = site.take("b", 20);
    let mut again = site.wait("a", 20);
    let mut of_b = site.wait("b", 20);
    let mut of_c = site.wait("c", 30);
    site.give_back(all);
    // 80 are free: 30 for c, then 20 for a, which holds nothing now; b would leave no room.
    assert!(of_c.has() && again.has() && !of_b.has());
}

/// Smaller asks pass one that does not fit, until it has waited long. Free units are kept for it for a while then.
#[test]
fn a_large_ask_is_passed_for_a_while_and_then_free_units_are_kept_for_it() {
    let mut site = Site::new();
    let slow = site.take("slow", 50);
    let mut large = site.wait("large", 90);
    let small = site.take("small", 10);
    site.give_back(small);
    site.pass(4);
    let small = site.take("small", 10);
    site.pass(1);
    let mut late = site.wait("late", 1);
    site.give_back(small);
    assert!(!late.has());
    site.pass(59);
    site.pool.look(site.now);
    assert!(!late.has());
    site.pass(1);
    site.pool.look(site.now);
    assert!(late.has(), "what is missing belongs to a slow one");
    site.give_back(late);
    site.pass(60);
    let mut late = site.wait("late", 1);
    site.give_back(slow);
    assert!(large.has() && late.has());
}

#[test]
fn an_ask_that_is_withdrawn_keeps_nothing() {
    let mut site = Site::new();
    let _slow = site.take("slow", 50);
    let large = site.wait("large", 90);
    site.pass(10);
    let mut small = site.wait("small", 10);
    site.withdraw(&large);
    assert!(small.has());
}

#[test]
fn an_account_is_forgotten_when_it_was_not_here_for_long() {
    let mut site = Site::new();
    let all = site.take("a", 100);
    let ask = site.wait("b", 1);
    let moving = site.move_bytes("a", 1);
    site.withdraw(&ask);
    site.pass(601);
    site.pool.look(site.now);
    assert_eq!(site.pool.shares.len(), 1, "b");
    site.give_back(all);
    site.pass(601);
    site.pool.look(site.now);
    assert_eq!(site.pool.shares.len(), 1, "it still moves");
    site.pool.end(&account("a"), moving.ticket);
    site.pool.look(site.now);
    assert!(site.pool.shares.is_empty());
    assert_eq!((site.pool.free(), site.pool.waiting()), (100, 0));
}

/// The youngest transfers end, one at each look, until the ask fits; the oldest goes on.
#[test]
fn where_another_has_waited_too_long_the_youngest_transfers_of_who_holds_most_end() {
    let mut site = Site::new();
    let mut held: Vec<Asked> = (0..4).map(|_| site.take("a", 20)).collect();
    let mut moving: Vec<Moving> = (0..4).map(|_| site.move_bytes("a", 20)).collect();
    let _b = site.take("b", 20);
    let mut waiting = site.wait("c", 40);
    site.pass(9);
    assert!(!site.look());
    site.pass(1);
    for left in [3, 2] {
        assert!(!waiting.has());
        assert!(site.look(), "{left}");
        assert!(moving[left].has_to_end());
        site.pool.end(&account("a"), moving[left].ticket);
        site.give_back(held.pop().unwrap());
        moving.truncate(left);
    }
    assert!(waiting.has());
    assert!(!site.look(), "nobody waits");
    assert!(!moving[0].has_to_end() && !moving[1].has_to_end());
}

/// A client gives its ask up before it is late, and asks again: it has waited since the first one.
#[test]
fn an_ask_that_comes_again_has_waited_since_the_first_one() {
    let mut site = Site::new();
    let _held = site.take("a", 80);
    let _moving = [site.move_bytes("a", 40), site.move_bytes("a", 40)];
    let first = site.wait("b", 30);
    site.pass(9);
    site.withdraw(&first);
    site.pass(1);
    let _second = site.wait("b", 30);
    assert!(site.look());
    let mut site = Site::new();
    let _held = site.take("a", 80);
    let _moving = [site.move_bytes("a", 40), site.move_bytes("a", 40)];
    let first = site.wait("b", 30);
    site.withdraw(&first);
    site.pass(16);
    let _second = site.wait("b", 30);
    assert!(!site.look(), "that is another one");
}

#[test]
fn the_oldest_transfer_ends_only_if_it_hardly_moves() {
    let mut site = Site::new();
    let _held = site.take("a", 80);
    let mut moving = site.move_bytes("a", 80);
    let _waiting = site.wait("b", 40);
    for _ in 0..20 {
        site.pass(60);
        moving.moved.fetch_add(60 * SLOW, Ordering::Relaxed);
        assert!(!site.look() && !moving.has_to_end());
    }
    site.pass(60);
    moving.moved.fetch_add(60 * SLOW - 1, Ordering::Relaxed);
    assert!(site.look() && moving.has_to_end());
    assert!(!site.look(), "once is enough");
}

/// PostgreSQL waits for a push: it passes the account's other asks, and after a while it leaves no room, as long as the
/// account holds no more than leaves it.
#[test]
fn a_push_comes_before_the_other_asks_of_its_account() {
    let mut site = Site::new();
    let first = site.take("a", 40);
    let _other = site.take("b", 15);
    let mut usual = site.wait("a", 30);
    let (granted, mut told) = oneshot::channel();
    site.pool.ask(&account("a"), (35, Urgency::Push), granted, site.now);
    site.pass(4);
    site.pool.look(site.now);
    assert!(told.try_recv().is_err());
    site.pass(1);
    site.pool.look(site.now);
    assert!(told.try_recv().is_ok() && !usual.has());
    site.give_back(first);
    site.pass(5);
    site.pool.look(site.now);
    assert!(usual.has());
}

/// What has arrived and is being stored is not ended: that would free nothing, and the client would send it again.
#[test]
fn what_is_stored_is_not_ended() {
    let mut site = Site::new();
    let _held = site.take("a", 90);
    let moving = [site.move_bytes("a", 45), site.move_bytes("a", 45)];
    let _waiting = site.wait("b", 20);
    for moving in &moving {
        moving.is_active.store(false, Ordering::Relaxed);
    }
    site.pass(300);
    assert!(!site.look());
    moving[1].is_active.store(true, Ordering::Relaxed);
    assert!(site.look());
}

/// An account within its part is never hurt, and neither is one that has just begun; nor for an account that holds as
/// much itself, nor in vain.
#[test]
fn no_transfer_ends_without_need() {
    let mut site = Site::new();
    let _within = site.take("a", 45);
    let _moving = [site.move_bytes("a", 20), site.move_bytes("a", 25)];
    let _b = site.take("b", 55);
    let _waiting = site.wait("b", 5);
    site.pass(3600);
    assert!(!site.look(), "b holds more than its part itself");
    let _late = site.wait("c", 10);
    site.pass(30);
    assert!(site.look(), "a third is the part of each now");
    let mut site = Site::new();
    let _held = site.take("a", 90);
    let _waiting = site.wait("c", 20);
    site.pass(30);
    let _moving = [site.move_bytes("a", 45), site.move_bytes("a", 45)];
    assert!(!site.look(), "they have just begun");
    site.pass(5);
    assert!(site.look());
    let mut site = Site::new();
    let _held = site.take("a", 90);
    let _waiting = site.wait("c", 100);
    let _moving = [site.move_bytes("a", 50), site.move_bytes("a", 40)];
    site.pass(30);
    assert!(!site.look(), "the rest is not to be had");
}

/// The node's own work waits for a minute before units are kept for it, and nothing is ended for it; what it holds does
/// not hide another account that holds too much.
#[test]
fn a_nodes_own_work_hurts_no_client() {
    let mut site = Site::new();
    let nodes = |site: &mut Site, units| {
        let (granted, told) = oneshot::channel();
        site.pool
            .ask(&Account::Nodes, (units, Urgency::Usual), granted, site.now);
        told
    };
    let _held = site.take("a", 60);
    let _moving = [site.move_bytes("a", 30), site.move_bytes("a", 30)];
    let _repair = nodes(&mut site, 50);
    site.pass(59);
    assert!(!site.look());
    let small = site.take("b", 10);
    site.give_back(small);
    site.pass(1);
    site.wait("b", 10);
    assert!(!site.look());
    let mut site = Site::new();
    let mut scan = nodes(&mut site, 45);
    assert!(scan.try_recv().is_ok());
    let _held = site.take("a", 40);
    let _moving = [site.move_bytes("a", 20), site.move_bytes("a", 20)];
    let _late = site.wait("b", 20);
    site.pass(10);
    assert!(site.look(), "a is ended, though nodes hold more");
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize, u32),
    GiveBack(usize),
    Withdraw(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize, 1..=100_u32).prop_map(|(name, units)| Step::Ask(name, units)),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => any::<usize>().prop_map(Step::Withdraw),
        1 => (0..8_u64).prop_map(Step::Pass),
    ]
}

/// Moves those that have been granted from the one list to the other.
fn grant(waiting: &mut Vec<Asked>, holding: &mut Vec<Asked>) {
    let mut at = 0;
    while at < waiting.len() {
        match waiting[at].has() {
            true => holding.push(waiting.swap_remove(at)),
            false => at += 1,
        }
    }
}

proptest! {
    /// Any asks, returns and withdrawals, at any time: what is held and what is free are the whole, and in the end
    /// everybody has had what was asked for.
    #[test]
    fn everybody_is_granted_in_the_end(steps in proptest::collection::vec(step(), 0..200)) {
        let mut site = Site::new();
        let (mut waiting, mut holding): (Vec<Asked>, Vec<Asked>) = Default::default();
        for step in steps {
            match step {
                Step::Ask(name, units) => waiting.push(site.ask(["a", "b", "c", "d"][name], units)),
                Step::GiveBack(at) if !holding.is_empty() => {
                    let one = holding.swap_remove(at % holding.len());
                    site.give_back(one);
                }
                Step::Withdraw(at) if !waiting.is_empty() => {
                    let one = waiting.swap_remove(at % waiting.len());
                    site.withdraw(&one);
                }
                Step::GiveBack(_) | Step::Withdraw(_) => {}
                Step::Pass(seconds) => site.pass(seconds),
            }
            grant(&mut waiting, &mut holding);
            let held: u32 = holding.iter().map(|one| one.units).sum();
            prop_assert_eq!(held + site.pool.free(), 100);
            prop_assert_eq!(waiting.len(), site.pool.waiting());
        }
        loop {
            grant(&mut waiting, &mut holding);
            let Some(one) = holding.pop() else { break };
            site.give_back(one);
        }
        prop_assert!(waiting.is_empty(), "they wait for nothing: {:?}", site.pool);
        prop_assert_eq!(site.pool.free(), 100);
    }
}
