//! One sentry alone, and several in a small world of frames that take their time or get lost.

use super::*;
use proptest::prelude::*;

const SLOT: Address = Address { shelf: 7, slot: 0 };
/// When it is decided, if nothing comes between.
const WINDOW: Duration = Duration::from_millis(60);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 99]);

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn site(n: u8) -> Site {
    Site { name: format!("eth{n}"), mac: mac(n), linked: true }
}

fn ward(slot: u8) -> Ward {
    Ward { slot: Address { shelf: 7, slot }, vlan: 0, rivals: Rivals::Refuse }
}

fn asks(orders: &[Order]) -> Vec<(usize, u8, Stance)> {
    let ask = |order: &Order| match order {
        Order::Ask { site, slot, claim, .. } => Some((*site, slot.slot, claim.stance)),
        _ => None,
    };
    orders.iter().filter_map(ask).collect()
}

fn errors(orders: &[Order]) -> Vec<String> {
    let said = |order: &Order| match order {
        Order::Say(Level::Error, line) => Some(line.clone()),
        _ => None,
    };
    orders.iter().filter_map(said).collect()
}

fn infos(orders: &[Order]) -> Vec<String> {
    let said = |order: &Order| match order {
        Order::Say(Level::Info, line) => Some(line.clone()),
        _ => None,
    };
    orders.iter().filter_map(said).collect()
}

fn decided(orders: &[Order]) -> Option<Vec<u8>> {
    orders.iter().find_map(|order| match order {
        Order::Decided { refused } => Some(refused.iter().map(|a| a.slot).collect()),
        _ => None,
    })
}

fn says(source: Mac, word: Word) -> Heard {
    Heard { source, slot: SLOT, word }
}

fn claim(stance: Stance, lowest: u8) -> Claim {
    Claim { stance, lowest: mac(lowest) }
}

/// Lets time pass as the clock would, up to and with `end`; what comes of it.
fn pass(sentry: &mut Sentry, now: &mut Duration, end: Duration, linked: &[bool]) -> Vec<Order> {
    let mut orders = Vec::new();
    while sentry.due(*now).max(*now) <= end {
        *now = sentry.due(*now).max(*now);
        orders.extend(sentry.tick(*now, linked));
    }
    *now = end;
    orders
}

/// A sentry whose window is over, with what it decided.
fn settled(sites: Vec<Site>, wards: &[Ward], word: Option<Word>) -> (Sentry, Vec<Order>) {
    let links = vec![true; sites.len()];
    let mut sentry = Sentry::new(sites, wards, false);
    sentry.tick(ms(0), &links);
    if let Some(word) = word {
        sentry.hear(ms(10), 0, 0, says(OTHER, word));
    }
    // Long enough also for one that takes its time because it has heard another guard.
    let mut orders = pass(&mut sentry, &mut ms(10), ms(990), &links);
    orders.extend(sentry.serves(ms(990)));
    (sentry, orders.into_iter().filter(|order| !matches!(order, Order::Ask { .. })).collect())
}

#[test]
fn it_asks_three_times_on_every_port_and_then_decides() {
    let mut sentry = Sentry::new(vec![site(1), site(2)], &[ward(0), ward(1)], false);
    let all: Vec<_> =
        [(0, 0), (1, 0), (0, 1), (1, 1)].into_iter().map(|(site, slot)| (site, slot, Stance::Asks)).collect();
    assert_eq!(asks(&sentry.tick(ms(0), &[true; 2])), all);
    let mut now = Duration::ZERO;
    for due in [20, 40] {
        assert_eq!(pass(&mut sentry, &mut now, ms(due - 1), &[true; 2]), []);
        let orders = pass(&mut sentry, &mut now, ms(due), &[true; 2]);
        assert_eq!((asks(&orders), decided(&orders)), (all.clone(), None));
    }
    assert_eq!(pass(&mut sentry, &mut now, ms(59), &[true; 2]), []);
    assert_eq!(pass(&mut sentry, &mut now, ms(60), &[true; 2]), [Order::Decided { refused: vec![] }]);
    assert_eq!(sentry.status(now), None);

    // Held up before the end, it asks once more: whoever asked meanwhile got no answer.
    let mut sentry = Sentry::new(vec![site(1)], &[ward(0)], false);
    let mut now = ms(0);
    sentry.tick(now, &[true]);
    assert_eq!(asks(&pass(&mut sentry, &mut now, ms(50), &[true])).len(), 2);
    let orders = sentry.tick(ms(200), &[true]);
    assert_eq!((asks(&orders).len(), decided(&orders)), (1, None));
    assert_eq!(decided(&pass(&mut sentry, &mut ms(200), ms(219), &[true])), None);
    assert_eq!(decided(&sentry.tick(ms(220), &[true])), Some(vec![]));
}

#[test]
fn a_target_that_answers_takes_its_slot_and_no_other() {
    let (sentry, orders) = settled(vec![site(1)], &[ward(0), ward(1)], Some(Word::Answer));
    assert_eq!(decided(&orders), Some(vec![0]));
    let said = errors(&orders);
    assert_eq!(said.len(), 1, "{said:?}");
    for word in ["slot 7.0: ", &OTHER.to_string(), "eth1", "rivals = \"alarm\"", "restart"] {
        assert!(said[0].contains(word), "no {word} in {said:?}");
    }
    assert_eq!(
        sentry.status(WINDOW).as_deref(),
        Some("not served because another target has the address: 7.0")
    );
    let rivals = sentry.rivals();
    assert_eq!((rivals.len(), rivals[0].mac, rivals[0].interface.as_str()), (1, OTHER, "eth1"));
}

#[test]
fn whoever_asks_too_and_has_the_lower_address_goes_on() {
    for (word, refused) in [
        (Word::Query(claim(Stance::Asks, 0)), true),
        (Word::Claim(claim(Stance::Asks, 0)), true),
        (Word::Query(claim(Stance::Asks, 5)), false),
        (Word::Claim(claim(Stance::Asks, 5)), false),
        // Decided before us.
        (Word::Query(claim(Stance::Holds, 5)), true),
        (Word::Claim(claim(Stance::Holds, 5)), true),
        // Will not serve it.
        (Word::Query(claim(Stance::Watches, 0)), false),
        // A target that sends our own words back.
        (Word::Claim(claim(Stance::Asks, 1)), true),
    ] {
        let (_, orders) = settled(vec![site(1), site(3)], &[ward(0)], Some(word));
        assert_eq!(decided(&orders), Some(if refused { vec![0] } else { vec![] }), "{word:?}");
        assert_eq!(errors(&orders).len(), 1, "{word:?}: both alarm");
    }
}

#[test]
fn only_xshelves_are_answered_and_only_while_it_asks_or_holds() {
    let query = || says(OTHER, Word::Query(claim(Stance::Asks, 50)));
    let answer = |stance| Order::Answer { site: 1, to: OTHER, slot: SLOT, vlan: 0, claim: claim(stance, 1) };
    let mut sentry = Sentry::new(vec![site(1), site(2)], &[ward(0)], false);
    sentry.tick(ms(0), &[true; 2]);
    assert_eq!(sentry.hear(ms(1), 1, 0, query()), [answer(Stance::Asks)]);
    for word in [Word::Answer, Word::Claim(claim(Stance::Asks, 50))] {
        let orders = sentry.hear(ms(2), 1, 0, says(mac(60), word));
        assert!(!orders.iter().any(|order| matches!(order, Order::Answer { .. })), "{word:?}");
    }
    // Ours, another slot, another VLAN.
    assert_eq!(sentry.hear(ms(2), 1, 0, says(mac(1), query().word)), []);
    assert_eq!(sentry.hear(ms(2), 1, 5, query()), []);
    let elsewhere = Heard { slot: Address { shelf: 7, slot: 9 }, ..query() };
    assert_eq!(sentry.hear(ms(2), 1, 0, elsewhere), []);

    let (mut holding, _) = settled(vec![site(1), site(2)], &[ward(0)], None);
    assert!(holding.hear(WINDOW, 1, 0, query()).contains(&answer(Stance::Holds)));
    let (mut refused, _) = settled(vec![site(1), site(2)], &[ward(0)], Some(Word::Answer));
    let orders = refused.hear(WINDOW, 1, 0, query());
    assert!(!orders.iter().any(|order| matches!(order, Order::Answer { .. })), "{orders:?}");
}

#[test]
fn a_slot_with_the_override_is_served_at_once_and_alarms() {
    let alarm = Ward { rivals: Rivals::Alarm, ..ward(0) };
    let mut sentry = Sentry::new(vec![site(1)], &[alarm], false);
    let orders = sentry.tick(ms(0), &[true]);
    assert_eq!(decided(&orders), Some(vec![]), "nothing to wait for");
    assert_eq!(asks(&orders), [], "nor to ask for at once");
    assert_eq!(sentry.serves(ms(1)), []);
    // Whoever asks yields all the same.
    let query = says(OTHER, Word::Query(claim(Stance::Asks, 0)));
    let holds = Order::Answer { site: 0, to: OTHER, slot: SLOT, vlan: 0, claim: claim(Stance::Holds, 1) };
    assert!(sentry.hear(ms(100), 0, 0, query).contains(&holds));
    let said = errors(&sentry.hear(ms(260), 0, 0, says(OTHER, Word::Answer)));
    assert!(said.len() == 1 && said[0].contains("stop one of them at once"), "{said:?}");
    assert_eq!(sentry.status(ms(300)).as_deref(), Some("ALARM: another target answers for 7.0"));
    let mut now = ms(260);
    let quiet = pass(&mut sentry, &mut now, QUIET - ms(1), &[true]);
    assert_eq!((decided(&quiet), asks(&quiet)), (None, vec![]), "decided once");
    let asked = asks(&pass(&mut sentry, &mut now, QUIET + 2 * PATIENT, &[true]));
    assert_eq!(asked, [(0, 0, Stance::Holds); 3]);
    assert_eq!(asks(&pass(&mut sentry, &mut now, Duration::from_secs(60), &[true])).len(), 1);
    // It fades when nobody is heard any more.
    assert_eq!(sentry.status(ms(260) + PRESENT + ms(1)), None);

    // Beside a slot without it, both wait, and one does not decide for the other.
    let mut sentry = Sentry::new(vec![site(1)], &[alarm, ward(1)], false);
    assert_eq!(decided(&sentry.tick(ms(0), &[true])), None);
    for slot in [0, 1] {
        sentry.hear(ms(1), 0, 0, Heard { slot: Address { shelf: 7, slot }, ..says(OTHER, Word::Answer) });
    }
    let orders = pass(&mut sentry, &mut ms(1), WINDOW, &[true]);
    assert_eq!((decided(&orders), errors(&orders).len()), (Some(vec![1]), 1));
    assert_eq!(errors(&sentry.serves(WINDOW)).len(), 1);
}

#[test]
fn whoever_answers_too_late_is_no_alarm_before_anything_is_served() {
    let late = |sentry: &mut Sentry| {
        let mut now = ms(0);
        sentry.tick(now, &[true]);
        assert_eq!(decided(&pass(sentry, &mut now, ms(70), &[true])), Some(vec![]));
        let orders = sentry.hear(ms(71), 0, 0, says(OTHER, Word::Answer));
        assert_eq!(errors(&orders), [""; 0], "it is not served here yet, and may never be");
        assert!(sentry.is_belied());
    };
    let mut sentry = Sentry::new(vec![site(1)], &[ward(0)], false);
    // This start is given up, and nothing was said. The other way is that it is heard in the very last moment.
    late(&mut sentry);
    let said = errors(&sentry.serves(ms(72)));
    assert!(said.len() == 1 && said[0].contains("which is served here"), "{said:?}");
    assert_eq!(sentry.serves(ms(73)), [], "once");
}

#[test]
fn an_alarm_is_said_once_an_hour_and_when_it_gets_worse() {
    let (mut sentry, orders) = settled(vec![site(1)], &[ward(0)], None);
    assert_eq!(errors(&orders).len(), 0);
    let at = |seconds| Duration::from_secs(seconds);
    let mut event = |seconds, n, sight| errors(&sentry.event(at(seconds), 0, SLOT, mac(n), sight)).len();
    assert_eq!(event(10, 50, Sight::Asks), 1);
    assert_eq!(event(11, 50, Sight::Asks), 0);
    assert_eq!(event(12, 50, Sight::Answers), 1);
    assert_eq!(event(13, 50, Sight::Asks), 0, "it got no better");
    assert_eq!(event(14, 51, Sight::Answers), 1);
    assert_eq!(event(3611, 50, Sight::Answers), 0);
    assert_eq!(event(3612, 50, Sight::Answers), 1);
    assert_eq!(event(3613, 50, Sight::Answers), 0);
    assert_eq!(event(3614, 51, Sight::Answers), 1);
    assert_eq!(event(3615, 1, Sight::Answers), 0, "that is us");
    assert_eq!(sentry.rivals().iter().map(|r| r.times).collect::<Vec<_>>(), [7, 2]);
}

#[test]
fn forged_frames_of_many_do_not_fill_the_memory_or_the_log() {
    let (mut sentry, _) = settled(vec![site(1)], &[ward(0)], None);
    let from = |n: usize| Mac([6, 0, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    let mut lines = 0;
    for n in 0..3 * limits::RIVALS {
        lines += errors(&sentry.event(ms(1000), 0, SLOT, from(n), Sight::Answers)).len();
    }
    assert_eq!((lines, sentry.rivals().len()), (limits::RIVALS + 1, limits::RIVALS));
    // They are forgotten in time.
    let late = ms(2000) + REPEAT;
    assert_eq!(errors(&sentry.event(late, 0, SLOT, OTHER, Sight::Answers)).len(), 1);
    assert_eq!(sentry.rivals().len(), 1);
}

#[test]
fn each_slot_is_asked_for_once_a_minute() {
    let wards: Vec<_> = (0..=254).map(ward).collect();
    let (mut sentry, _) = settled(vec![site(1)], &wards, None);
    let mut now = WINDOW;
    for minute in 0..3 {
        let mut asked = Vec::new();
        for _ in 0..60 {
            now = sentry.due(now);
            let orders = sentry.tick(now, &[true]);
            assert!(asks(&orders).len() <= 5, "spread: {}", asks(&orders).len());
            asked.extend(asks(&orders));
        }
        let slots: BTreeSet<_> = asked.iter().map(|(_, slot, _)| *slot).collect();
        assert_eq!((asked.len(), slots.len()), (255, 255), "minute {minute}");
        assert!(asked.iter().all(|(.., stance)| *stance == Stance::Holds));
    }
    // Stopped for a day, it does not make up for it.
    let orders = sentry.tick(now + Duration::from_secs(86400), &[true]);
    assert_eq!(asks(&orders).len(), 255);
}

#[test]
fn a_refused_slot_tells_when_its_rival_is_gone_and_back() {
    let (mut sentry, _) = settled(vec![site(1)], &[ward(0), ward(1)], Some(Word::Answer));
    let mut now = WINDOW;
    let mut minute = |sentry: &mut Sentry, answers: bool, linked: bool| {
        let mut all = Vec::new();
        for _ in 0..60 {
            now = sentry.due(now);
            let orders = sentry.tick(now, &[linked]);
            if answers && asks(&orders).iter().any(|(_, slot, _)| *slot == 0) {
                all.extend(sentry.hear(now, 0, 0, says(OTHER, Word::Answer)));
            }
            all.extend(orders);
        }
        (infos(&all), errors(&all))
    };
    let nothing = (vec![], vec![]);
    for _ in 0..5 {
        assert_eq!(minute(&mut sentry, true, true), nothing);
    }
    // Lost once; without a link nobody can answer.
    assert_eq!(minute(&mut sentry, false, true), nothing);
    assert_eq!(minute(&mut sentry, true, true), nothing);
    for _ in 0..5 {
        assert_eq!(minute(&mut sentry, false, false), nothing);
    }
    assert_eq!(minute(&mut sentry, true, true), nothing);
    let mut gone = Vec::new();
    for _ in 0..6 {
        gone.extend(minute(&mut sentry, false, true).0);
    }
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert!(gone[0].starts_with("slot 7.0: ") && gone[0].contains("restart xshelf"), "{gone:?}");
    let (_, back) = minute(&mut sentry, true, true);
    assert!(back.len() == 1 && back[0].contains("answers for this address"), "{back:?}");
    assert!(sentry.status(now).is_some_and(|s| s.ends_with(": 7.0")), "it is served only after a restart");
}

#[test]
fn links_are_waited_for_and_welcomed() {
    // Attaching took the first link down for a second; the second was never up.
    let sites = || vec![site(1), Site { linked: false, ..site(2) }];
    let mut sentry = Sentry::new(sites(), &[ward(0)], false);
    for now in [0, 250, 500] {
        assert_eq!(sentry.tick(ms(now), &[false, false]), []);
        assert!(sentry.due(ms(now)) <= ms(now + 250));
    }
    assert_eq!(asks(&sentry.tick(ms(1000), &[true, false])), [(0, 0, Stance::Asks)]);
    let mut now = ms(1000);
    assert_eq!(decided(&pass(&mut sentry, &mut now, ms(1059), &[true, false])), None);
    assert_eq!(decided(&pass(&mut sentry, &mut now, ms(1060), &[true, false])), Some(vec![]));
    // The second comes up long after: who is behind it?
    let mut asked = Vec::new();
    let mut now = Duration::from_secs(110);
    sentry.tick(now, &[true, false]);
    let first = sentry.tick(now, &[true, true]);
    for orders in [first, pass(&mut sentry, &mut now, Duration::from_secs(115), &[true, true])] {
        asked.extend(asks(&orders).into_iter().filter(|(site, ..)| *site == 1));
    }
    assert_eq!(asked, [(1, 0, Stance::Holds); 3]);

    // It does not come back: nobody can be asked, and the start goes on.
    let mut sentry = Sentry::new(sites(), &[ward(0)], false);
    sentry.tick(ms(0), &[false, false]);
    let orders = sentry.tick(LINK, &[false, false]);
    assert_eq!((asks(&orders), decided(&orders)), (vec![], Some(vec![])));
    // Nor where there is no cable at all.
    let mut sentry = Sentry::new(vec![Site { linked: false, ..site(1) }], &[ward(0)], false);
    assert_eq!(decided(&sentry.tick(ms(0), &[false])), Some(vec![]));
}

/// One xshelf in the world.
struct Node {
    sentry: Sentry,
    macs: Vec<Mac>,
    start: u64,
    due: u64,
    /// When it is held up, unless it has decided by then.
    stall: std::ops::Range<u64>,
    /// Milliseconds from the decision to the first frame that a worker answers.
    gap: u64,
    decided: Option<(u64, bool)>,
    told: Option<u64>,
    errors: usize,
}

impl Node {
    fn is_stalled(&self, now: u64) -> bool {
        self.decided.is_none() && self.stall.contains(&now)
    }

    fn serves(&self, now: u64) -> bool {
        self.decided.is_some_and(|(at, served)| served && now >= at + self.gap)
    }
}

/// Ports, start, gap, and a stall: how long after the start, and its length.
type Plan = (Vec<u8>, u64, u64, (u64, u64));

/// Runs several xshelves with one slot on one wire for 130 s, and returns who serves and how many alarms each raised.
/// `fate` gives each delivery its delay in milliseconds, or loses it.
fn world(plan: &[Plan], mut fate: impl FnMut() -> Option<u64>) -> Vec<(bool, usize)> {
    let mut nodes: Vec<Node> = plan
        .iter()
        .map(|(ports, start, gap, (after, length))| Node {
            sentry: Sentry::new(ports.iter().map(|n| site(*n)).collect(), &[ward(0)], false),
            macs: ports.iter().map(|n| mac(*n)).collect(),
            start: *start,
            due: *start,
            stall: start + after..start + after + length,
            gap: *gap,
            decided: None,
            told: None,
            errors: 0,
        })
        .collect();
    // (when, node, site, frame)
    let mut wire: Vec<(u64, usize, usize, Heard)> = Vec::new();
    let mut now = 0;
    while now < 130_000 {
        let mut sent: Vec<(usize, Order)> = Vec::new();
        // As in the real loop, whatever has come in is heard first.
        let (due, later) = wire.into_iter().partition(|(at, ..)| *at <= now);
        wire = later;
        for (_, i, site, heard) in due {
            let node = &mut nodes[i];
            if node.start > now {
                continue;
            }
            if node.is_stalled(now) {
                wire.push((node.stall.end, i, site, heard));
                continue;
            }
            let since = ms(now - node.start);
            let query = matches!(heard.word, Word::Query(_));
            if node.serves(now) && query {
                // The worker takes it, and the program tells of it.
                if node.told.is_none_or(|told| now >= told + 100) && !node.macs.contains(&heard.source) {
                    node.told = Some(now);
                    let orders = node.sentry.event(since, site, heard.slot, heard.source, Sight::Asks);
                    sent.extend(orders.into_iter().map(|order| (i, order)));
                }
                let word = Word::Answer;
                if let (Some(delay), false) = (fate(), node.macs.contains(&heard.source)) {
                    let answer = Heard { source: node.macs[site], slot: SLOT, word };
                    for (to, other) in nodes.iter().enumerate() {
                        if let Some(at) = other.macs.iter().position(|mac| *mac == heard.source) {
                            wire.push((now + delay, to, at, answer));
                        }
                    }
                }
            } else {
                let orders = node.sentry.hear(since, site, 0, heard);
                sent.extend(orders.into_iter().map(|order| (i, order)));
            }
        }
        for (i, node) in nodes.iter_mut().enumerate().filter(|(_, n)| n.start <= now && !n.is_stalled(now)) {
            let since = ms(now - node.start);
            if node.serves(now) {
                sent.extend(node.sentry.serves(since).into_iter().map(|order| (i, order)));
            }
            if node.due <= now {
                let links = vec![true; node.macs.len()];
                sent.extend(node.sentry.tick(since, &links).into_iter().map(|order| (i, order)));
                node.due = node.start + node.sentry.due(since).as_millis() as u64;
            }
        }
        for (i, order) in sent {
            match order {
                Order::Ask { site, slot, claim, .. } => {
                    let heard = Heard { source: nodes[i].macs[site], slot, word: Word::Query(claim) };
                    for (to, node) in nodes.iter().enumerate() {
                        for at in (0..node.macs.len()).filter(|at| (to, *at) != (i, site)) {
                            if let Some(delay) = fate() {
                                wire.push((now + delay, to, at, heard));
                            }
                        }
                    }
                }
                Order::Answer { site, to: whom, slot, claim, .. } => {
                    let heard = Heard { source: nodes[i].macs[site], slot, word: Word::Claim(claim) };
                    for (to, node) in nodes.iter().enumerate() {
                        if let Some(at) = node.macs.iter().position(|mac| *mac == whom) {
                            if let Some(delay) = fate() {
                                wire.push((now + delay, to, at, heard));
                            }
                        }
                    }
                }
                Order::Say(Level::Error, _) => nodes[i].errors += 1,
                Order::Say(..) => {}
                Order::Decided { refused } => nodes[i].decided = Some((now, refused.is_empty())),
            }
        }
        let ticks = nodes.iter().map(|n| if n.is_stalled(now) { n.stall.end } else { n.due });
        let next = ticks.chain(wire.iter().map(|(at, ..)| *at)).min().unwrap_or(u64::MAX);
        now = next.max(now + 1);
    }
    nodes.iter().map(|node| (node.serves(now), node.errors)).collect()
}

/// Ports, start and gap of two to four xshelves with addresses in any order.
fn plans(spread: u64) -> impl Strategy<Value = Vec<Plan>> {
    let macs = Just((1..=8).collect::<Vec<u8>>()).prop_shuffle();
    let node = (1usize..=2, 0..spread, 0u64..100, (0u64..100, 0u64..300));
    (macs, prop::collection::vec(node, 2..=4)).prop_map(|(macs, nodes)| {
        let mut macs = macs.into_iter();
        let plan = |(n, start, gap, stall)| (macs.by_ref().take(n).collect(), start, gap, stall);
        nodes.into_iter().map(plan).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn of_any_that_hear_each_other_exactly_one_serves(
        plan in plans(250), delays in prop::collection::vec(0u64..=8, 1..200),
    ) {
        let mut delays = delays.iter().cycle();
        let end = world(&plan, || delays.next().copied());
        prop_assert_eq!(end.iter().filter(|(serves, _)| *serves).count(), 1, "{:?}", end);
        prop_assert!(end.iter().all(|(_, errors)| *errors >= 1), "all alarm: {:?}", end);
    }

    #[test]
    fn frames_that_get_lost_never_leave_a_slot_without_anybody(
        plan in plans(1500), fates in prop::collection::vec(prop::option::of(0u64..300), 1..200),
    ) {
        let mut fates = fates.iter().cycle();
        let end = world(&plan, || fates.next().copied().flatten());
        prop_assert!(end.iter().any(|(serves, _)| *serves), "{:?}", end);
    }
}

#[test]
fn one_with_many_ports_on_one_switch_is_no_rival_of_itself() {
    assert_eq!(world(&[(vec![3, 1, 2], 0, 300, (0, 0))], || Some(1)), [(true, 0)]);
}

#[test]
fn two_at_the_same_moment_the_lower_serves() {
    let plan = |ports: &[u8], start| (ports.to_vec(), start, 300, (0, 0));
    for (first, second) in [(vec![1], vec![2]), (vec![5, 1], vec![2, 3]), (vec![2, 3], vec![4])] {
        for offset in [0, 1, 10, 19, 20, 39, 40, 55] {
            let end = world(&[plan(&first, 0), plan(&second, offset)], || Some(1));
            assert_eq!(
                end.iter().map(|(serves, _)| *serves).collect::<Vec<_>>(),
                [true, false],
                "{offset} ms"
            );
            let end = world(&[plan(&second, 0), plan(&first, offset)], || Some(1));
            assert_eq!(
                end.iter().map(|(serves, _)| *serves).collect::<Vec<_>>(),
                [false, true],
                "{offset} ms"
            );
        }
        // The first has decided.
        for offset in [65, 90, 106, 200, 1000] {
            let end = world(&[plan(&second, 0), plan(&first, offset)], || Some(1));
            assert_eq!(
                end.iter().map(|(serves, _)| *serves).collect::<Vec<_>>(),
                [true, false],
                "{offset} ms"
            );
        }
    }
}
