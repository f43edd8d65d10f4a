use super::super::overview::{Notes, Overview, Parts, Place, PortNote, SlotNote, States};
use super::*;
use crate::frame::{Layout, Region, WorkerId, WorkerShare};
use crate::protocol::Mac;
use crate::shelf::{Routes, SlotState};
use crate::worker::{Board, Counter, Counters, Port, Shared, WorkerPost};
use std::os::unix::fs::PermissionsExt as _;

fn overview() -> Arc<Overview> {
    let layout = Layout::plan(&[WorkerShare { receive: vec![], runs: 1, own: 1 }]).unwrap();
    let address = Address { shelf: 7, slot: 0 };
    let shared = Shared {
        region: Arc::new(Region::heap(layout.chunks())),
        ports: vec![Port::new("p0".into(), Mac([2, 0, 0, 0, 0, 1]), 9000, u32::MAX, 3)],
        queues: vec![],
        routes: Routes::new([(address, WorkerId(0))]).unwrap(),
        posts: vec![WorkerPost::for_worker(layout.chunks(), 1).unwrap()],
        layout,
    };
    let counters = Arc::new(Counters::default());
    counters.add(Counter::Received, 5);
    let overview = Overview::new(Parts {
        shared: Arc::new(shared),
        places: vec![Place { address, worker: WorkerId(0), number: 0, path: "/srv/a".into() }],
        cpus: vec![3],
        queues: vec![(WorkerId(0), "p0:0".into())],
        counters: vec![counters],
        boards: vec![Arc::new(Board::new(1))],
        states: States::new([(address, SlotState::with_config_string(b"label"))]),
    });
    overview.note(Notes {
        alarm: None,
        ports: vec![PortNote { mode: "native".into(), trouble: None }],
        slots: vec![SlotNote {
            sectors: 8,
            durable: "yes".into(),
            access: "direct".into(),
            health: "good",
            since: Instant::now(),
            next: None,
        }],
    });
    Arc::new(overview)
}

fn started(path: &Path) -> Result<Server, ServerError> {
    Server::start(Claimed::new(path)?, overview())
}

fn say(path: &Path, bytes: &[u8]) -> Option<Answer> {
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(bytes).unwrap();
    // A hang guard only.
    client.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
    let _ = client.shutdown(std::net::Shutdown::Write);
    let mut text = Vec::new();
    client.read_to_end(&mut text).unwrap();
    serde_json::from_slice(&text).ok()
}

#[test]
fn it_answers_its_owner_whatever_garbage_came_before_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let server = started(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let long = [b'x'; REQUEST + 1];
    for garbage in [&b""[..], b"\n", b"\xff\xfe\n", b"{}\n", b"{\"ask\":\"all\"}\n", b"[[[[[[\n", &long] {
        let answer = say(&path, garbage);
        assert!(matches!(answer, Some(Answer::Refused { .. })), "{answer:?}");
    }
    // Nested as deep as fits: the reader has a bound of its own.
    let mut deep = vec![b'['; REQUEST - 1];
    deep.push(b'\n');
    assert!(matches!(say(&path, &deep), Some(Answer::Refused { .. })));
    let Some(Answer::Status(report)) = say(&path, b"{\"ask\":\"status\"}\n") else { panic!() };
    assert!(report.is_well(), "{report}");
    let slot = &report.slots[0];
    assert_eq!((slot.address.as_str(), slot.config_string.as_str(), slot.sectors), ("7.0", "label", 8));
    assert_eq!((report.ports[0].mtu, report.ports[0].sectors), (9000, 16));
    assert_eq!(report.counters, [("received".to_owned(), 5)].into());
    assert_eq!(report.workers[0].queues, ["p0:0"]);
    drop(server);
    assert!(!path.exists());
}

#[test]
fn an_order_waits_for_the_appliance() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let server = started(&path).unwrap();
    let asked = std::thread::spawn({
        let path = path.clone();
        move || say(&path, b"{\"ask\":\"recover\",\"slot\":\"7.0\"}\n")
    });
    let order = loop {
        match server.order() {
            Some(order) => break order,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert_eq!(order.slot, Address { shelf: 7, slot: 0 });
    order.reply.send(Answer::Done { text: "begun".into() }).unwrap();
    assert_eq!(asked.join().unwrap(), Some(Answer::Done { text: "begun".into() }));
    let bad = say(&path, b"{\"ask\":\"recover\",\"slot\":\"seven\"}\n");
    assert!(matches!(bad, Some(Answer::Refused { .. })) && server.order().is_none(), "{bad:?}");
}

#[test]
fn what_a_dead_shelf_left_is_replaced_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    drop(UnixListener::bind(&path).unwrap());
    let server = started(&path).unwrap();
    let error = started(&path).unwrap_err();
    assert!(matches!(error, ServerError::Taken(_)), "{error}");
    assert!(say(&path, b"{\"ask\":\"status\"}\n").is_some(), "the first one goes on");
    // Its place was taken in the meantime: what is there now is not ours.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    drop(server);
    let error = started(&path).unwrap_err();
    assert!(matches!(error, ServerError::NoSocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    let error = started(&directory.path().join("no/such/place")).unwrap_err();
    assert!(error.to_string().contains("no/such/place: No such file"), "{error}");
}

#[test]
fn who_asks_before_the_shelf_has_started_waits_and_one_that_never_starts_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let claimed = Claimed::new(&path).unwrap();
    assert!(matches!(Claimed::new(&path), Err(ServerError::Taken(_))));
    let asked = std::thread::spawn({
        let path = path.clone();
        move || say(&path, b"{\"ask\":\"status\"}\n")
    });
    let server = Server::start(claimed, overview()).unwrap();
    assert!(matches!(asked.join().unwrap(), Some(Answer::Status(_))));
    drop(server);
    drop(Claimed::new(&path).unwrap());
    assert!(!path.exists());
}

#[test]
fn an_order_that_nobody_waits_for_any_more_is_not_carried_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let server = started(&path).unwrap();
    let asked = std::thread::spawn({
        let path = path.clone();
        move || say(&path, b"{\"ask\":\"recover\",\"slot\":\"7.0\"}\n")
    });
    // The shelf is busy for as long as somebody waits.
    let Some(Answer::Refused { text }) = asked.join().unwrap() else { panic!() };
    assert!(text.contains("is busy, and has done nothing"), "{text}");
    assert!(server.order().is_none());
}
