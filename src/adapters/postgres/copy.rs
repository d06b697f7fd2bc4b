//! Postgres' binary format of COPY, as the server sends it: a signature before the first row, then a row a message, then a mark.
//! <https://www.postgresql.org/docs/current/sql-copy.html>

use crate::adapters::sql::Fault;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The fields of a row, in order.
pub(super) struct Tuple<'a>(&'a [u8]);

/// The row in a message, if there is one.
pub(super) fn tuple(message: &[u8]) -> Result<Option<Tuple<'_>>, Fault> {
    let row = match message.strip_prefix(SIGNATURE) {
        None => message,
        Some(rest) => {
            // Flags, of which none concerns us, and the length of an extension.
            let (head, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let extension = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            rest.get(extension as usize..).ok_or_else(short)?
        }
    };
    match row.split_first_chunk() {
        None if row.is_empty() => Ok(None),
        None => Err(short()),
        Some((count, _)) if i16::from_be_bytes(*count) < 0 => Ok(None),
        Some((_, fields)) => Ok(Some(Tuple(fields))),
    }
}

fn short() -> Fault {
    Fault::Other("the server's answer to COPY ends inside a row".to_owned())
}

impl<'a> Tuple<'a> {
    /// The bytes of the next field, which is not null.
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let (len, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        let len = usize::try_from(i32::from_be_bytes(*len)).map_err(|_| Fault::Other("a column is null".to_owned()))?;
        let (field, rest) = rest.split_at_checked(len).ok_or_else(short)?;
        self.0 = rest;
        Ok(field)
    }

    pub fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|e| Fault::Other(e.to_string()))
    }

    pub fn i16(&mut self) -> Result<i16, Fault> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Fault> {
        self.fixed().map(i64::from_be_bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.bytes()?.try_into().map_err(|_| Fault::Other("a column has another type than expected".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<u8> {
        let mut row = 3i16.to_be_bytes().to_vec();
        for field in [&b"shop"[..], &7i16.to_be_bytes(), &(-9i64).to_be_bytes()] {
            row.extend((field.len() as i32).to_be_bytes());
            row.extend(field);
        }
        row
    }

    #[test]
    fn a_row_is_read_with_and_without_the_signature_before_it() {
        let first = [SIGNATURE, &[0; 8], &row()].concat();
        for message in [row(), first] {
            let mut tuple = tuple(&message).expect("readable").expect("a row");
            assert_eq!((tuple.text().expect("text"), tuple.i16().expect("i16"), tuple.i64().expect("i64")), ("shop", 7, -9));
            assert!(tuple.bytes().is_err(), "there is no fourth field");
        }
        assert!(tuple(&(-1i16).to_be_bytes()).expect("readable").is_none(), "the mark at the end");
        assert!(tuple(&[SIGNATURE, &[0; 8]].concat()).expect("readable").is_none(), "a signature alone");
    }

    #[test]
    fn a_row_that_is_cut_off_or_null_is_an_error() {
        for cut in 1..row().len() {
            let fields = |message: &[u8]| {
                let Some(mut t) = tuple(message)? else { return Ok(()) };
                t.text()?;
                t.i16()?;
                t.i64().map(drop)
            };
            assert!(fields(&row()[..cut]).is_err(), "cut at {cut}");
        }
        let mut null = 1i16.to_be_bytes().to_vec();
        null.extend((-1i32).to_be_bytes());
        assert!(tuple(&null).expect("readable").expect("a row").bytes().is_err());
    }
}
