//! Speaks Kafka's protocol by hand, to write what no client library lets one write.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::until;
use crate::support::kafka::broker;

/// Writes one record to partition 0 (Produce v3, record batch v2, acks=all).
pub fn produce(topic: &str, headers: &[(&[u8], &[u8])], value: &[u8]) {
    let mut record = vec![0u8];
    varint(&mut record, 0); // timestamp delta
    varint(&mut record, 0); // offset delta
    varint(&mut record, -1); // no key
    counted(&mut record, value);
    varint(&mut record, headers.len() as i64);
    for (name, value) in headers {
        counted(&mut record, name);
        counted(&mut record, value);
    }
    let mut sized = Vec::new();
    counted(&mut sized, &record);

    let mut body = Vec::new();
    body.extend(0i16.to_be_bytes()); // attributes
    body.extend(0i32.to_be_bytes()); // last offset delta
    let now = chrono::Utc::now().timestamp_millis();
    body.extend(now.to_be_bytes());
    body.extend(now.to_be_bytes());
    body.extend((-1i64).to_be_bytes()); // producer id
    body.extend((-1i16).to_be_bytes()); // producer epoch
    body.extend((-1i32).to_be_bytes()); // sequence
    body.extend(1i32.to_be_bytes());
    body.extend(sized);

    let mut batch = Vec::new();
    batch.extend(0i64.to_be_bytes()); // base offset
    batch.extend((4 + 1 + 4 + body.len() as i32).to_be_bytes());
    batch.extend(0i32.to_be_bytes()); // leader epoch
    batch.push(2); // magic
    batch.extend(crc32c(&body).to_be_bytes());
    batch.extend(body);

    let mut request = Vec::new();
    request.extend(0i16.to_be_bytes()); // Produce
    request.extend(3i16.to_be_bytes());
    request.extend(7i32.to_be_bytes()); // correlation
    text(&mut request, "by-hand");
    request.extend((-1i16).to_be_bytes()); // no transactional id
    request.extend((-1i16).to_be_bytes()); // acks=all
    request.extend(10_000i32.to_be_bytes());
    request.extend(1i32.to_be_bytes());
    text(&mut request, topic);
    request.extend(1i32.to_be_bytes());
    request.extend(0i32.to_be_bytes()); // partition
    request.extend((batch.len() as i32).to_be_bytes());
    request.extend(batch);

    // A leader that was elected a moment ago may not know it yet; client libraries try again as well.
    until("the broker takes a record written by hand", || match error_of(&request, topic) {
        0 => true,
        UNKNOWN_TOPIC | LEADER_NOT_AVAILABLE | NOT_LEADER => false,
        other => panic!("the broker refused the record: error {other}"),
    });
}

const UNKNOWN_TOPIC: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;
const NOT_LEADER: i16 = 6;

fn error_of(request: &[u8], topic: &str) -> i16 {
    let mut broker = TcpStream::connect(broker()).expect("broker");
    broker.write_all(&(request.len() as i32).to_be_bytes()).expect("write");
    broker.write_all(request).expect("write");
    let mut length = [0; 4];
    broker.read_exact(&mut length).expect("read");
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer).expect("read");
    // correlation, one topic, its name, one partition, its number, then the error
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    i16::from_be_bytes([answer[at], answer[at + 1]])
}

fn text(to: &mut Vec<u8>, s: &str) {
    to.extend((s.len() as i16).to_be_bytes());
    to.extend(s.as_bytes());
}

fn counted(to: &mut Vec<u8>, bytes: &[u8]) {
    varint(to, bytes.len() as i64);
    to.extend(bytes);
}

fn varint(to: &mut Vec<u8>, n: i64) {
    let mut zigzag = ((n << 1) ^ (n >> 63)) as u64;
    while zigzag >= 0x80 {
        to.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    to.push(zigzag as u8);
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
    })
}
