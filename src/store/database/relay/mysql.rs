//! The frames of MySQL and MariaDB:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>,
//! <https://mariadb.com/docs/server/reference/clientserver-protocol>

use super::frames::{Fields, Frame, FrameRules, LONGEST_FRAME, LONGEST_ROW, Violation};

/// Columns of a row, at most: no statement asks for as many.
const MOST_COLUMNS: u64 = 250;

/// The longest description of a column, in bytes: six names of at most 256 each, and numbers.
const LONGEST_DEFINITION: usize = 4 << 10;

/// What a packet begins with that is no row and no count.
pub(super) const OK: u8 = 0x00;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERROR: u8 = 0xff;

/// Of a statement's end, that another result follows.
const MORE_RESULTS: u16 = 0x0008;

/// What of the packets may pass, once the server has let the driver in.
pub(super) struct MySql {
    /// Whether packets that say "no more columns" are left out.
    deprecate_eof: bool,
    expected: Expected,
    /// The header of the driver's packet, as far as it has come.
    head: Vec<u8>,
    /// What is left of the driver's packet.
    passing: usize,
}

/// What the server is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Nothing, but an error before it closes.
    Nothing,
    /// One packet in answer to a command that has no rows.
    Packet,
    /// What answers a statement.
    Answer,
    /// What answers the preparing of a statement.
    Prepared,
    /// So many packets, and then what a prepared statement ends with, which is nothing.
    Definitions(u64),
    /// So many packets, and then rows.
    Columns(u64),
    Rows,
}

impl MySql {
    pub(super) const fn new(deprecate_eof: bool) -> Self {
        Self { deprecate_eof, expected: Expected::Nothing, head: Vec::new(), passing: 0 }
    }

    /// How many packets describe so many columns.
    fn definitions(&self, count: u64) -> u64 {
        count + u64::from(count > 0 && !self.deprecate_eof)
    }

    fn longest(&self) -> usize {
        match self.expected {
            Expected::Rows => LONGEST_ROW,
            Expected::Definitions(_) | Expected::Columns(_) => LONGEST_DEFINITION,
            _ => LONGEST_FRAME,
        }
    }

    /// What follows a packet, without its header.
    fn after(&self, packet: &[u8]) -> Result<Expected, Violation> {
        let too_soon = || Violation::sent("a packet that ends too soon");
        let first = *packet.first().ok_or_else(too_soon)?;
        if first == ERROR {
            return Ok(Expected::Nothing);
        }
        Ok(match self.expected {
            Expected::Nothing => {
                return Err(Violation::sent("a packet that answers nothing"));
            }
            Expected::Packet => Expected::Nothing,
            Expected::Answer if first == OK => ended(packet)?,
            Expected::Answer if packet.len() == 1 && u64::from(first) <= MOST_COLUMNS => {
                Expected::Columns(self.definitions(first.into()))
            }
            Expected::Answer => {
                return Err(Violation::sent(format!("a result of more than {MOST_COLUMNS} columns")));
            }
            Expected::Prepared => {
                let mut fields = Fields(packet);
                // That it is well, and the statement's number.
                fields.take(5).ok_or_else(too_soon)?;
                let columns = u16::from_le_bytes(fields.array().ok_or_else(too_soon)?).into();
                let arguments = u16::from_le_bytes(fields.array().ok_or_else(too_soon)?).into();
                if first != OK || columns > MOST_COLUMNS {
                    return Err(Violation::sent(format!("a statement of more than {MOST_COLUMNS} columns")));
                }
                match self.definitions(columns) + self.definitions(arguments) {
                    0 => Expected::Nothing,
                    count => Expected::Definitions(count),
                }
            }
            Expected::Definitions(1) => Expected::Nothing,
            Expected::Definitions(count) => Expected::Definitions(count - 1),
            Expected::Columns(1) => Expected::Rows,
            Expected::Columns(count) => Expected::Columns(count - 1),
            Expected::Rows if first == EOF => ended(packet)?,
            Expected::Rows => Expected::Rows,
        })
    }
}

/// What follows the end of a result, which says so: nothing, for one statement at a time is sent.
fn ended(packet: &[u8]) -> Result<Expected, Violation> {
    let status = || {
        let mut fields = Fields(&packet[1..]);
        if packet[0] == EOF && packet.len() < 9 {
            // The number of warnings.
            fields.take(2)?;
        } else {
            // The rows that were written, and the last number that was given out.
            number(&mut fields)?;
            number(&mut fields)?;
        }
        Some(u16::from_le_bytes(fields.array()?))
    };
    match status() {
        Some(status) if status & MORE_RESULTS == 0 => Ok(Expected::Nothing),
        Some(_) => Err(Violation::sent("more than one result of one statement")),
        None => Err(Violation::sent("the end of a result that ends too soon")),
    }
}

/// A number that says how many bytes it has; its value is not needed.
fn number(fields: &mut Fields<'_>) -> Option<()> {
    let [first] = fields.array()?;
    let more = match first {
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => 0,
    };
    fields.take(more).map(drop)
}

impl FrameRules for MySql {
    fn header(&mut self, bytes: &[u8]) -> Result<Option<Frame>, Violation> {
        let [a, b, c, _number, payload @ ..] = bytes else { return Ok(None) };
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let longest = self.longest();
        if length == 0 || length > longest {
            return Err(Violation::sent(format!("a packet of {length} bytes; at most {longest} are read")));
        }
        let Some(first) = payload.first() else { return Ok(None) };
        if self.expected == Expected::Rows && !matches!(*first, EOF | ERROR) {
            return Ok(Some(Frame::Passing(4 + length)));
        }
        if length > LONGEST_FRAME {
            return Err(Violation::sent(format!("a packet of {length} bytes that is no row")));
        }
        Ok(Some(Frame::Whole(4 + length)))
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), Violation> {
        self.expected = self.after(&frame[4..])?;
        Ok(())
    }

    fn driver_sent(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let passed = self.passing.min(bytes.len());
            self.passing -= passed;
            bytes = &bytes[passed..];
            let (head, rest) = bytes.split_at(bytes.len().min(5 - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            let [a, b, c, number, command] = self.head[..] else { continue };
            self.head.clear();
            self.passing = (u32::from_le_bytes([a, b, c, 0]) as usize).saturating_sub(1);
            // A command begins with the number 0; what does not goes on with one.
            let expected = match (number, command) {
                // The end of the connection, of a statement, of an argument: nothing answers them.
                (1.., _) | (0, 0x01 | 0x18 | 0x19) => continue,
                (0, 0x03 | 0x17) => Expected::Answer,
                (0, 0x16) => Expected::Prepared,
                (0, _) => Expected::Packet,
            };
            if self.expected != Expected::Nothing {
                return Err(Violation::sent("less than a whole answer before the next request"));
            }
            self.expected = expected;
        }
        Ok(())
    }
}
