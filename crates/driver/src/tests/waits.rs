//! Waits: how soon they end, what they tell, and whom they hold up.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

/// Enough for anything that is soon.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_file_is_found_while_the_guest_waits_by_itself() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a b");
    machine.connect().unwrap();
    let made = thread::scope(|scope| {
        let made = scope.spawn(|| {
            thread::sleep(Duration::from_millis(2500));
            std::fs::write(&file, "").unwrap();
            Instant::now()
        });
        machine.wait_for_file(&format!("{}/a*b", folder.path().display()), LONG).unwrap();
        made.join().unwrap()
    });
    // Pauses that grow would have been at their longest by now, 400 ms.
    assert!(made.elapsed() < Duration::from_millis(250), "{:?}", made.elapsed());
}

#[test]
fn a_wait_in_the_guest_lets_other_threads_have_the_shell() {
    let (driver, machine) = one();
    machine.connect().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| machine.wait_for_file("/nonexistent/x", Duration::from_secs(6)));
        thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        machine.succeed(&["true"], None).unwrap();
        assert!(!waiting.is_finished());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        // And a slice under way does not keep an interrupt waiting.
        let asked = stop.clone();
        driver.set_interrupt_hook(Some(Arc::new(move || asked.load(Ordering::Relaxed))));
        stop.store(true, Ordering::Relaxed);
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    });
    stop.store(false, Ordering::Relaxed);
    assert_eq!(machine.succeed(&["echo on"], None).unwrap(), "on\n");
}

#[test]
fn a_name_that_is_no_shell_word_fails_with_the_time() {
    let (_driver, machine) = one();
    for name in ["'", "$no_such_variable/x", "/dev/null /dev/null"] {
        let error = machine.wait_for_file(name, Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.contains("did not appear within 0.1 s"), "{error}");
    }
    machine.succeed(&["true"], None).unwrap();
}

#[test]
fn ports_open_and_close_without_a_netcat_too() {
    let (_driver, machine) = one();
    machine.connect().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    machine.wait_for_open_port(port, "localhost", SOON).unwrap();
    machine.wait_for_open_port(port, "127.0.0.1", SOON).unwrap();
    let error = machine.wait_for_closed_port(port, "localhost", Duration::from_millis(300)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("localhost did not close within 0.3 s (looked "), "{text}");
    assert!(text.contains("listening TCP sockets:") && text.contains(&port.to_string()), "{text}");
    let closed = thread::scope(|scope| {
        let closing = scope.spawn(move || {
            thread::sleep(Duration::from_millis(1500));
            drop(listener);
            Instant::now()
        });
        machine.wait_for_closed_port(port, "localhost", SOON).unwrap();
        closing.join().unwrap()
    });
    assert!(closed.elapsed() < Duration::from_millis(350), "{:?}", closed.elapsed());
    let error = machine.wait_for_open_port(port, "127.0.0.1", Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("did not open within 0.3 s"), "{error}");
}

#[test]
fn an_attempt_that_gets_no_answer_does_not_eat_the_time() {
    let (driver, _) = driver(&[("a", "deaf-nc")], 600);
    let machine = &driver.machines()[0];
    machine.connect().unwrap();
    let began = Instant::now();
    let error = machine.wait_for_open_port(9, "192.0.2.1", Duration::from_secs(5)).unwrap_err().to_string();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(error.contains("did not open within 5 s (it gave no answer at all, looked "), "{error}");
}

#[test]
fn unix_sockets_are_what_netcat_says() {
    let (driver, _) = driver(&[("a", "unix-nc"), ("b", "no-nc")], 600);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let name = path.to_str().unwrap();
    let machine = driver.machine("a").unwrap();
    let error = machine.wait_for_open_unix_socket(name, false, Duration::from_millis(200)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the Unix stream socket") && text.contains("did not open within 0.2 s"), "{text}");
    assert!(text.contains("listening and bound Unix sockets:"), "{text}");
    let _listener = UnixListener::bind(&path).unwrap();
    machine.wait_for_open_unix_socket(name, true, SOON).unwrap();
    let error = driver.machine("b").unwrap().wait_for_open_unix_socket(name, false, SOON).unwrap_err();
    assert!(error.to_string().contains("the guest has no `nc`"), "{error}");
}

#[test]
fn a_line_about_a_unit_ends_the_pause_before_the_next_look() {
    let (driver, _) = driver(&[("a", "slow-systemd")], 600);
    let machine = &driver.machines()[0];
    machine.connect().unwrap();
    // A look takes half a second there, so pauses are at their longest: 400 ms.
    let folder = tempfile::tempdir().unwrap();
    let active = folder.path().join("active");
    let unit = format!("{}.service", active.display());
    let became = thread::scope(|scope| {
        let becoming = scope.spawn(|| {
            thread::sleep(Duration::from_secs(3));
            std::fs::write(&active, "").unwrap();
            machine.send_console(&format!("systemd[1]: Started {unit}\n")).unwrap();
            Instant::now()
        });
        machine.wait_for_unit(&unit, None, LONG).unwrap();
        becoming.join().unwrap()
    });
    assert!(became.elapsed() < Duration::from_secs(3), "{:?}", became.elapsed());
}

#[test]
fn a_unit_that_stays_away_is_told_with_its_state() {
    let (driver, _) = driver(&[("a", "slow-systemd")], 600);
    let error = driver.machines()[0].wait_for_unit("x", None, Duration::from_millis(100)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("unit `x` did not become active within 0.1 s (looked "), "{text}");
    assert!(text.contains("it is \"activating\" (substate start-pre)"), "{text}");
    assert!(text.contains("the last journal lines"), "{text}");
}

#[test]
fn a_guest_that_does_not_say_why_hides_nothing() {
    let (_driver, machine) = one();
    machine.connect().unwrap();
    machine.crash().unwrap();
    let error = machine.check_failed_after_asking("it was not there", "true").to_string();
    assert!(error.contains("it was not there; what was last seen cannot be told: is not running"), "{error}");
    machine.succeed(&["true"], None).unwrap();
    let error =
        machine.check_failed_after_asking("it was not there", "head -c 1000000 /dev/zero").to_string();
    assert!(error.len() < 20_000, "{}", error.len());
}

#[test]
fn a_command_that_reads_what_is_the_drivers_ends_with_its_time() {
    let (_driver, machine) = one();
    let reply = machine.execute("cat", Execute::limited(Some(Duration::from_millis(300)))).unwrap();
    assert_eq!((reply.status, reply.output.as_str()), (124, ""));
    let error = machine.succeed(&["sleep infinity"], Some(Duration::from_millis(300))).unwrap_err();
    assert!(error.to_string().contains("not done within 0.3 s"), "{error}");
    assert_eq!(machine.succeed(&["echo next"], None).unwrap(), "next\n");
}

#[test]
fn a_command_that_reads_for_ever_ends_with_the_run() {
    let (driver, _) = driver(&[("a", "")], 2);
    let error = driver.machines()[0].succeed(&["cat"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GlobalTimeout);
    assert!(driver.machines().iter().all(|machine| !machine.is_up()));
}

#[test]
fn terminals_and_windows_say_what_is_missing() {
    let (_driver, machine) = one();
    let error = machine.get_tty_text("99x").unwrap_err().to_string();
    assert!(error.contains("no text of virtual terminal `99x`: there is no /dev/vcs99x"), "{error}");
    machine.dump_tty_contents("99x").unwrap_err();
    machine.wait_until_tty_matches("99x", "x", SOON).unwrap_err();
    assert!(
        machine.wait_until_tty_matches("1", "(", SOON).unwrap_err().to_string().contains("not a regular")
    );
    let error = machine.get_window_names().unwrap_err().to_string();
    assert!(error.contains("command `xwininfo -root -tree` failed"), "{error}");
    let error = machine.wait_for_x(Duration::from_millis(50)).unwrap_err().to_string();
    assert!(error.contains("the X11 server did not come up within 0.05 s"), "{error}");
}
