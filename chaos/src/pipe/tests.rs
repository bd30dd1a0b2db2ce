use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Offers datagrams 1 ms apart, numbered from 0, and returns the arrivals: the time in milliseconds, and the number.
fn pass(pipe: &mut Pipe<()>, count: u32) -> Vec<(u128, u32)> {
    let start = Instant::now();
    for number in 0..count {
        pipe.offer(start + MILLISECOND * number, (), &number.to_le_bytes());
    }
    let mut arrived = Vec::new();
    while let Some(due) = pipe.next_due() {
        let (_, bytes) = pipe.take_due(due).unwrap();
        let number = u32::from_le_bytes(bytes[..].try_into().unwrap());
        arrived.push((due.duration_since(start).as_millis(), number));
    }
    arrived
}

fn pipe(faults: Faults) -> Pipe<()> {
    let mut pipe = Pipe::new(7);
    pipe.set(faults);
    pipe
}

#[test]
fn a_perfect_link_hands_everything_on_at_once_and_in_order() {
    let arrived = pass(&mut pipe(Faults::none()), 100);
    assert_eq!(arrived, (0..100).map(|n| (u128::from(n), n)).collect::<Vec<_>>());
}

#[test]
fn a_delay_moves_everything_and_keeps_the_order() {
    let arrived = pass(&mut pipe(Faults::delayed(MILLISECOND * 40)), 100);
    assert_eq!(arrived, (0..100).map(|n| (u128::from(n) + 40, n)).collect::<Vec<_>>());
}

#[test]
fn nothing_arrives_before_it_is_due() {
    let mut pipe = pipe(Faults::delayed(MILLISECOND * 40));
    let start = Instant::now();
    pipe.offer(start, (), b"x");
    assert!(pipe.take_due(start + MILLISECOND * 39).is_none());
    assert!(pipe.take_due(start + MILLISECOND * 40).is_some());
    assert_eq!(pipe.held, 0);
}

#[test]
fn jitter_reorders_within_its_bound() {
    let arrived = pass(&mut pipe(Faults::none().with_jitter(MILLISECOND * 20)), 500);
    assert_eq!(arrived.len(), 500);
    assert!(
        arrived.windows(2).any(|pair| pair[0].1 > pair[1].1),
        "something was overtaken"
    );
    assert!(
        arrived
            .iter()
            .all(|&(at, n)| (u128::from(n)..=u128::from(n) + 20).contains(&at))
    );
}

#[test]
fn loss_and_duplication_are_about_the_share_that_was_asked_for() {
    let mut pipe = pipe(Faults::none().with_loss(0.1).with_duplication(0.2));
    let arrived = pass(&mut pipe, 10_000);
    let counts = pipe.counts();
    assert!((800..1200).contains(&counts.lost), "{counts:?}");
    assert!((1600..2000).contains(&counts.duplicated), "{counts:?}");
    assert_eq!(arrived.len() as u64, 10_000 - counts.lost + counts.duplicated);
    assert_eq!(counts.delivered, arrived.len() as u64);
    assert_eq!(counts.delivered_bytes, arrived.len() as u64 * 4);
}

#[test]
fn the_same_seed_does_the_same() {
    let faults = Faults::delayed(MILLISECOND)
        .with_jitter(MILLISECOND * 9)
        .with_loss(0.3)
        .with_duplication(0.3);
    assert_eq!(pass(&mut pipe(faults), 1000), pass(&mut pipe(faults), 1000));
    let mut other = Pipe::new(8);
    other.set(faults);
    assert_ne!(pass(&mut pipe(faults), 1000), pass(&mut other, 1000));
}

#[test]
fn which_datagrams_are_lost_does_not_hang_on_earlier_faults() {
    let lost_of_the_second_half = |first: Faults| {
        let mut pipe = pipe(first);
        pass(&mut pipe, 500);
        pipe.set(Faults::none().with_loss(0.5));
        pass(&mut pipe, 500)
    };
    assert_eq!(
        lost_of_the_second_half(Faults::none()),
        lost_of_the_second_half(Faults::silence())
    );
}

#[test]
fn a_narrow_link_spreads_a_burst_and_drops_what_its_queue_does_not_hold() {
    let bandwidth = Some(crate::Bandwidth {
        bytes_per_second: 10_000,
        queue: 1000,
    });
    let mut pipe = pipe(Faults {
        bandwidth,
        ..Faults::none()
    });
    let start = Instant::now();
    // A burst of 2000 bytes at 10 bytes a millisecond: half of it finds room.
    for _ in 0..20 {
        pipe.offer(start, (), &[0; 100]);
    }
    assert_eq!(pipe.counts().overflowed, 10);
    let mut due = Vec::new();
    while let Some(at) = pipe.next_due() {
        pipe.take_due(at);
        due.push(at.duration_since(start).as_millis());
    }
    assert_eq!(due, (1..=10).map(|n| n * 10).collect::<Vec<_>>());
    // The line is idle again after that, also for a datagram that is larger than the queue.
    pipe.offer(start + MILLISECOND * 200, (), &[0; 1400]);
    assert_eq!(pipe.counts().overflowed, 10);
}

#[test]
fn silence_takes_what_is_under_way() {
    let mut pipe = pipe(Faults::delayed(MILLISECOND * 40));
    let start = Instant::now();
    pipe.offer(start, (), b"under way");
    pipe.set(Faults::silence());
    pipe.offer(start, (), b"into the void");
    assert_eq!(pipe.counts().silenced, 2);
    pipe.set(Faults::none());
    assert!(pipe.next_due().is_none());
    assert_eq!(pipe.held, 0);
    pipe.offer(start, (), b"after it");
    assert_eq!(&pipe.take_due(start).unwrap().1[..], b"after it");
}

#[test]
fn memory_is_bounded_however_long_the_delay() {
    let mut pipe = pipe(Faults::delayed(Duration::from_secs(3600)));
    let start = Instant::now();
    for _ in 0..40_000 {
        pipe.offer(start, (), &[0; 1000]);
    }
    assert!(pipe.held <= LIMIT && pipe.held > LIMIT - 2000);
    let counts = pipe.counts();
    assert_eq!(counts.overflowed + pipe.under_way.len() as u64, 40_000);
}
