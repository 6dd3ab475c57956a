//! Replies on the wire, as far as the writers read them by themselves: where one ends, and what it says
//! where it is the usual one. The client library reads the others.

use redis::{RedisResult, Value};

/// A reply, and how many bytes it had; none if it goes on.
///
/// # Errors
/// It is none.
pub(super) fn take(input: &[u8]) -> RedisResult<Option<(Value, usize)>> {
    if let Some(done) = numbers(input) {
        return Ok(Some(done));
    }
    let Some(length) = extent(input, DEEPEST) else { return Ok(None) };
    let value = redis::parse_redis_value(input.get(..length).unwrap_or(input))?;
    Ok(Some((value, length)))
}

/// What a script says that has done something: an array of three numbers.
fn numbers(input: &[u8]) -> Option<(Value, usize)> {
    let mut rest = input.strip_prefix(b"*3\r\n")?;
    let mut numbers = Vec::with_capacity(3);
    for _ in 0..3 {
        let number;
        (number, rest) = number_of(rest.strip_prefix(b":")?)?;
        numbers.push(Value::Int(number));
    }
    Some((Value::Array(numbers), input.len() - rest.len()))
}

/// The digits that a line consists of, and what comes behind it.
fn number_of(line: &[u8]) -> Option<(i64, &[u8])> {
    let end = line.iter().position(|byte| !byte.is_ascii_digit()).filter(|end| *end > 0)?;
    let (digits, rest) = line.split_at(end);
    let number = digits.iter().try_fold(0_i64, |number, digit| {
        number.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
    });
    Some((number?, rest.strip_prefix(b"\r\n")?))
}

/// How long the reply is that begins here. What is no reply ends with its line.
fn extent(input: &[u8], depth: usize) -> Option<usize> {
    let line = line(input)?;
    let head = line.len() + 2;
    let Some((kind, rest)) = line.split_first() else { return Some(head) };
    let count = std::str::from_utf8(rest).ok().and_then(|it| it.parse::<usize>().ok());
    let values = match (kind, count) {
        (b'$' | b'=' | b'!', Some(length)) => {
            let whole = head.checked_add(length)?.checked_add(2)?;
            return (input.len() >= whole).then_some(whole);
        }
        (b'*' | b'~' | b'>', Some(count)) => count,
        (b'%', Some(count)) => count.checked_mul(2)?,
        // What is said of the value behind it.
        (b'|', Some(count)) => count.checked_mul(2)?.checked_add(1)?,
        // A line, or nothing: a length of -1.
        _ => 0,
    };
    if depth == 0 {
        return Some(head);
    }
    let mut at = head;
    for _ in 0..values {
        at += extent(input.get(at..)?, depth - 1)?;
    }
    Some(at)
}

/// The line that begins here, without its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    let end = input.windows(2).position(|it| it == b"\r\n")?;
    input.get(..end)
}

/// How deep values may be in one another: those of our scripts and of `ROLE` are three.
const DEEPEST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Replies of every kind that our commands have, one after the other.
    const REPLIES: &[u8] = b"*3\r\n:0\r\n:-7\r\n:9223372036854775807\r\n*3\r\n:1\r\n:1765000000000000\r\n:0\r\n+OK\r\n:2\r\n$3\r\na\r\n\r\n_\r\n$-1\r\n#t\r\n,1.5\r\n\
        *2\r\n:0\r\n$4\r\n\r\n\r\n\r\n*2\r\n:0\r\n_\r\n%1\r\n+a\r\n:1\r\n~1\r\n:1\r\n-OOM command not allowed\r\n\
        !8\r\nERR a\r\nb\r\n*3\r\n$6\r\nmaster\r\n:7\r\n*1\r\n*3\r\n+h\r\n+1\r\n+2\r\n*0\r\n*-1\r\n";

    #[test]
    fn replies_are_taken_one_by_one_as_the_library_reads_them() {
        let mut whole = REPLIES;
        let mut taken = 0;
        while !whole.is_empty() {
            let (value, length) = take(whole).unwrap().unwrap();
            assert_eq!(value, redis::parse_redis_value(&whole[..length]).unwrap());
            for cut in 0..length {
                let partly = take(&whole[..cut]).unwrap();
                assert_eq!(partly, None, "{:?}", whole[..cut].escape_ascii().to_string());
            }
            whole = &whole[length..];
            taken += 1;
        }
        assert_eq!(taken, 18);
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_ends() {
        for wrong in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"*x\r\n",
            b"?\r\n",
            b"*3\r\n:1\r\n:9223372036854775808\r\n:0\r\n",
        ] {
            assert!(take(wrong).is_err(), "{:?}", wrong.escape_ascii().to_string());
        }
        let deep = b"*1\r\n".repeat(100);
        assert!(take(&deep).is_err());
        assert_eq!(take(b"*18446744073709551615\r\n").unwrap(), None);
        assert_eq!(take(b"$18446744073709551615\r\n").unwrap(), None);
    }
}
