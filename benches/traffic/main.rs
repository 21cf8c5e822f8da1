//! Traffic for `cargo xtask bench network`, within guests: round trips of one byte over TCP, and small UDP datagrams, of
//! which it counts those that arrive.
//!
//! ```text
//!  traffic serve                  the other side of both
//!  traffic trips SERVER COUNT     COUNT round trips
//!  traffic datagrams SERVER COUNT COUNT datagrams; prints how many arrived
//! ```

use std::env;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const PORT: u16 = 7000;
/// Bytes of a datagram. With the headers of UDP, IPv4 and Ethernet a frame has 64, less its check sequence of 4.
const DATAGRAM: usize = 18;
/// The question how many datagrams have arrived since the start; anything else is echoed.
const HOW_MANY: u8 = b'?';
/// How long no datagram has to arrive for them to be over.
const SILENCE: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let wrong = |_| io::Error::other("an address or a number is none");
    match words.as_slice() {
        ["serve"] => serve(),
        ["trips", server, count] => trips(
            server.parse::<Ipv4Addr>().map_err(wrong)?,
            count.parse().map_err(|_| io::Error::other("not a number of trips"))?,
        ),
        ["datagrams", server, count] => datagrams(
            server.parse::<Ipv4Addr>().map_err(wrong)?,
            count.parse().map_err(|_| io::Error::other("not a number of datagrams"))?,
        ),
        _ => Err(io::Error::other("say: traffic serve | trips SERVER COUNT | datagrams SERVER COUNT")),
    }
}

fn serve() -> io::Result<()> {
    let arrived = Arc::new(AtomicU64::new(0));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let counter = Arc::clone(&arrived);
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while socket.recv(&mut datagram).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    for stream in TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?.incoming() {
        // A client that goes away is no reason to end.
        let _ = answer(&stream?, &arrived);
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, arrived: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte {
            [HOW_MANY] => stream.write_all(&arrived.load(Ordering::Relaxed).to_le_bytes())?,
            _ => stream.write_all(&byte)?,
        }
    }
}

fn connect(server: Ipv4Addr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from((server, PORT)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn trips(server: Ipv4Addr, count: u64) -> io::Result<()> {
    let mut stream = connect(server)?;
    let mut byte = [1];
    for _ in 0..count {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    Ok(())
}

fn datagrams(server: Ipv4Addr, count: u64) -> io::Result<()> {
    let mut stream = connect(server)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, PORT))?;
    let before = how_many(&mut stream)?;
    for _ in 0..count {
        socket.send(&[0; DATAGRAM])?;
    }
    let mut last = before;
    loop {
        thread::sleep(SILENCE);
        let now = how_many(&mut stream)?;
        if now == last {
            break;
        }
        last = now;
    }
    println!("{}", last.saturating_sub(before));
    Ok(())
}

fn how_many(stream: &mut TcpStream) -> io::Result<u64> {
    stream.write_all(&[HOW_MANY])?;
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}
