//! A client's message from its bytes, and the server's answer as the bytes of a WebSocket frame.
//! `cargo run --release -p online-status-protocol --example messages`

use online_status_protocol::{
    Encoding, ListKind, Opcode, Record, Request, ServerMessage, Status, begin_list, decode,
    end_list, frame, list_record,
};

/// The answer to one message of a client, as a whole frame.
fn answer(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = frame::begin(&mut out);
    match decode(Encoding::Json, payload) {
        Ok(message) => match &message.request {
            Request::Query { users } => {
                let kind = ListKind::Result(message.id.as_ref());
                begin_list(Encoding::Json, kind, &mut out);
                for (n, user) in users.iter().enumerate() {
                    let record = Record {
                        status: Status::Online,
                        devices: 1,
                        ..Record::default()
                    };
                    list_record(Encoding::Json, n == 0, user, &record, None, &mut out);
                }
                end_list(Encoding::Json, &mut out);
            }
            _ => {
                let id = message.id.as_ref();
                ServerMessage::Ok { id }.encode(Encoding::Json, &mut out);
            }
        },
        Err(bad) => {
            let (id, code, message) = (bad.id.as_ref(), bad.code, &*bad.message);
            ServerMessage::Error { id, code, message }.encode(Encoding::Json, &mut out);
        }
    }
    let frame = frame::end(&mut out, start, Opcode::Text);
    out[frame].to_vec()
}

fn main() {
    for message in [
        r#"{"type":"query","users":["alice","bob"],"id":1}"#,
        r#"{"type":"status","status":"away","id":2}"#,
        r#"{"type":"status","status":"busy","id":3}"#,
    ] {
        let frame = answer(message.as_bytes());
        println!("{message}\n  {}", frame.escape_ascii());
    }
}
