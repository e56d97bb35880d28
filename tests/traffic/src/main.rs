//! What test pods run. One static program, mounted from a ConfigMap, so that any image and any cluster will do.
//!
//! - `traffic serve PORT` answers HTTP requests and echoes everything else, over TCP and UDP.
//! - `traffic try ADDRESS [MILLISECONDS]` opens a connection every 50 ms, or as often as said, and prints what became of it.
//! - `traffic once ADDRESS` opens one connection, and fails when that fails: for exec probes.
//! - `traffic stream tcp|udp ADDRESS` keeps one flow open, sends a number every 50 ms and prints what comes back.
//! - `traffic stream tcp-push|udp-push ADDRESS` opens a flow and sends nothing more; the server sends a number every 50 ms.
//! - `traffic frames ADDRESS` sends a UDP datagram every 50 ms that it makes itself, from the Ethernet header on.
//! - `traffic hear PORT` prints every UDP datagram that arrives.
//! - `traffic uncut TIMES` removes the agent's table from the network namespace that it is in, this often.
//!
//! The server also answers the health checks of gRPC.
//!
//! Times are nanoseconds since 1970. Every loop ends by itself after [`LIMIT`].

#![allow(clippy::print_stdout, reason = "its output is its result")]

mod frames;
mod grpc;
mod uncut;

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Nothing that a test starts goes on for longer, whatever becomes of the test.
const LIMIT: Duration = Duration::from_secs(900);
const EVERY: Duration = Duration::from_millis(50);
/// Asks the server to send by itself from then on.
const PUSH: &[u8] = b"push";
/// A SYN that got lost is sent again after 1 s; the second one must not pass for the first.
const CONNECT: Duration = Duration::from_millis(900);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["serve", port] => port.parse().map_err(io::Error::other).and_then(serve),
        ["try", address] => address.parse().map_err(io::Error::other).and_then(|address| attempts(address, EVERY)),
        ["try", address, pause] => {
            let pause = pause.parse().map(Duration::from_millis).map_err(io::Error::other);
            let address = address.parse().map_err(io::Error::other);
            address.and_then(|address| attempts(address, pause?))
        }
        ["once", address] => address.parse().map_err(io::Error::other).and_then(once),
        ["stream", "tcp", address] => address.parse().map_err(io::Error::other).and_then(stream_tcp),
        ["stream", "udp", address] => address.parse().map_err(io::Error::other).and_then(stream_udp),
        ["stream", "tcp-push", address] => address.parse().map_err(io::Error::other).and_then(pushed_tcp),
        ["stream", "udp-push", address] => address.parse().map_err(io::Error::other).and_then(pushed_udp),
        ["frames", address] => address.parse().map_err(io::Error::other).and_then(frames::send),
        ["hear", port] => port.parse().map_err(io::Error::other).and_then(hear),
        ["uncut", times] => times.parse().map_err(io::Error::other).and_then(uncut::uncut),
        _ => Err(io::Error::other(
            "usage: traffic serve PORT | try ADDRESS [MILLISECONDS] | once ADDRESS | stream PROTOCOL ADDRESS | frames ADDRESS | hear PORT | uncut TIMES",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn serve(port: u16) -> io::Result<()> {
    let udp = UdpSocket::bind(("0.0.0.0", port))?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let text = buffer.get(..length).unwrap_or_default();
            if text != PUSH {
                let _ = udp.send_to(text, from);
                continue;
            }
            let Ok(pusher) = udp.try_clone() else { continue };
            thread::spawn(move || {
                every(EVERY, || {
                    let _ = pusher.send_to(now().to_string().as_bytes(), from);
                    true
                });
            });
        }
    });
    for connection in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let Ok(connection) = connection else { continue };
        thread::spawn(move || answer(connection));
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let length = connection.peek(&mut buffer)?;
    if buffer.get(..length).unwrap_or_default().starts_with(grpc::BEGINNING) {
        return grpc::answer(connection);
    }
    loop {
        let length = connection.read(&mut buffer)?;
        let text = buffer.get(..length).unwrap_or_default();
        if text.is_empty() {
            return Ok(());
        }
        if text == PUSH {
            every(EVERY, || writeln!(connection, "{}", now()).is_ok());
            return Ok(());
        }
        if text.starts_with(b"GET ") {
            return connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
        }
        connection.write_all(text)?;
    }
}

/// Prints `start end answered|refused|timedout|unreachable` for each attempt, in the order in which they end.
fn attempts(address: SocketAddr, pause: Duration) -> io::Result<()> {
    every(pause, || {
        thread::spawn(move || {
            let start = now();
            let word = match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(_) => "answered",
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => "refused",
                    ErrorKind::TimedOut | ErrorKind::WouldBlock => "timedout",
                    _ => "unreachable",
                },
            };
            if say(&format!("{start} {} {word}", now())).is_err() {
                // Nobody listens any more.
                std::process::exit(0);
            }
        });
        true
    });
    Ok(())
}

fn once(address: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&address, CONNECT).map(drop)
}

/// Does something again and again, until it fails or [`LIMIT`] has passed.
fn every(pause: Duration, mut act: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end && act() {
        thread::sleep(pause);
    }
}

/// Prints `text received` for each datagram.
fn hear(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    let mut buffer = [0; 2048];
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let length = socket.recv(&mut buffer)?;
        say(&format!("{} {}", String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()), now()))?;
    }
    Ok(())
}

/// Prints `sent received` for each number that comes.
fn pushed_tcp(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.write_all(PUSH)?;
    for line in BufReader::new(stream).lines() {
        say(&format!("{} {}", line?, now()))?;
    }
    Ok(())
}

fn pushed_udp(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(address)?;
    socket.send(PUSH)?;
    let end = Instant::now() + LIMIT;
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        say(&format!("{} {}", String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()), now()))?;
    }
    Ok(())
}

/// Prints `sent received` for each number that comes back.
fn stream_tcp(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    thread::spawn(move || {
        every(EVERY, || writeln!(writer, "{}", now()).is_ok());
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    for line in BufReader::new(stream).lines() {
        say(&format!("{} {}", line?, now()))?;
    }
    Ok(())
}

fn stream_udp(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(address)?;
    let reader = socket.try_clone()?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            // An ICMP error of an earlier datagram is reported here and means nothing for the next one.
            let Ok(length) = reader.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            if say(&format!("{text} {}", now())).is_err() {
                std::process::exit(0);
            }
        }
    });
    every(EVERY, || {
        let _ = socket.send(now().to_string().as_bytes());
        true
    });
    Ok(())
}
