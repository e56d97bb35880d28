use proptest::prelude::*;

use super::{FILES, Line, interface, neighbour, packet, raw, route4, route6, tcp, udp, unix};

fn json(line: Option<Line>) -> String {
    serde_json::to_string(&line.expect("a line")).expect("JSON")
}

#[test]
#[cfg(target_endian = "little")]
fn lines_are_read_as_the_kernel_writes_them() {
    let line = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 4711 1 0000 100 0 0 10 0";
    assert_eq!(
        json(tcp(line)),
        r#"{"local":"127.0.0.1:8080","peer":"0.0.0.0:0","state":"listen","queued":[0,2],"uid":1000,"inode":4711}"#
    );
    let line = b"  1: 0000000000000000FFFF00000163630A:0035 00000000000000000000000001000000:C000 01 00000000:00000000 00:00000000 00000000     0        0 7 2 0000 0";
    assert_eq!(
        json(udp(line)),
        r#"{"local":"[::ffff:10.99.99.1]:53","peer":"[::1]:49152","state":"connected","queued":[0,0],"uid":0,"inode":7}"#
    );
    let line = b"   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 0000 0";
    assert_eq!(json(raw(line)), r#"{"local":"0.0.0.0","peer":"0.0.0.0","protocol":1,"uid":0,"inode":9}"#);
    let line = b"0000000000000000 3      3    0003   2     1 0      0      8";
    assert_eq!(json(packet(line)), r#"{"socketType":3,"protocol":"0003","interface":2,"uid":0,"inode":8}"#);
    let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 12 /run/a b";
    assert_eq!(json(unix(line)), r#"{"socketType":"stream","listening":true,"state":1,"inode":12,"path":"/run/a b"}"#);
    let line = b"eth0\t00006363\t0163630A\t0003\t0\t0\t7\t0000FFFF\t0\t0\t0";
    assert_eq!(
        json(route4(line)),
        r#"{"destination":"99.99.0.0","prefix":16,"gateway":"10.99.99.1","metric":7,"flags":3,"interface":"eth0"}"#
    );
    let line = b"fd990000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
    assert_eq!(
        json(route6(line)),
        r#"{"destination":"fd99::","prefix":64,"gateway":"::","metric":256,"flags":1,"interface":"eth0"}"#
    );
    let line = b"10.99.0.1        0x1         0x2         aa:bb:cc:dd:ee:ff     *        eth0";
    assert_eq!(
        json(neighbour(line)),
        r#"{"address":"10.99.0.1","hardware":"aa:bb:cc:dd:ee:ff","flags":"0x2","interface":"eth0"}"#
    );
    let line = b"  eth0: 100 2 0 0 0 0 0 0 200 3 0 0 0 0 0 0";
    assert_eq!(json(interface(line)), r#"{"interface":"eth0","receivedBytes":100,"sentBytes":200}"#);
}

#[test]
fn headings_are_no_lines() {
    for heading in [
        &b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"[..],
        b"Num       RefCount Protocol Flags    Type St Inode Path",
        b"sk       RefCnt Type Proto  Iface R Rmem   User   Inode",
        b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode",
        b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
        b"IP address       HW type     Flags       HW address            Mask     Device",
        b"Inter-|   Receive                                                |  Transmit",
        b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs",
    ] {
        for file in &FILES {
            assert_eq!((file.parse)(heading), None, "{}", file.path);
        }
    }
}

proptest! {


    #[test]
    fn any_line_is_read(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b':'), b'0'..=b'9', b'A'..=b'F'], 0..160)) {
        for file in &FILES {
            if let Some(line) = (file.parse)(&bytes) {
                prop_assert!(serde_json::to_string(&line).expect("JSON").len() < 4096);
            }
        }
    }

    #[test]
    fn no_name_changes_the_rest(name in proptest::collection::vec((1..=255u8).prop_filter("a line's end", |byte| *byte != b'\n'), 1..60)) {
        let line = [b"0000000000000000: 00000002 00000000 00000000 0002 01 12 ", &name[..]].concat();
        let Some(Line::Unix { inode, path, listening, .. }) = unix(&line) else { panic!("a socket") };
        prop_assert_eq!((inode, listening, path.expect("a name").0), (12, false, name));
    }
}
