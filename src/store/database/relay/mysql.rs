//! The frames of MySQL and MariaDB:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>,
//! <https://mariadb.com/docs/server/reference/clientserver-protocol>

use super::frames::{Fields, Frame, FrameRules, LONGEST_FRAME, LONGEST_ROW, Violation};

/// The most columns of a row: no statement asks for as many.
const MOST_COLUMNS: u64 = 250;

/// The longest description of a column, in bytes: six names of at most 256 each, and numbers.
const LONGEST_DEFINITION: usize = 4 << 10;

/// The first byte of packets other than rows and counts.
pub(super) const OK: u8 = 0x00;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERROR: u8 = 0xff;

/// The status bit that announces a further result.
const MORE_RESULTS: u16 = 0x0008;

/// Which packets may pass after the login.
pub(super) struct MySql {
    /// Whether the server leaves out the packets that end a list of columns.
    deprecate_eof: bool,
    expected: Expected,
    /// The received part of the header of the driver's packet.
    head: Vec<u8>,
    /// How many bytes of the driver's packet remain.
    passing: usize,
}

/// What the server may send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Nothing, except an error before it closes.
    Nothing,
    /// One packet: the answer to a command without rows.
    Packet,
    /// The answer to a statement.
    Answer,
    /// The answer to a statement's preparation.
    Prepared,
    /// So many packets, and then the end of a preparation, which is nothing.
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

    /// What follows a packet, given without its header.
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
                // The OK byte, and the number of the statement.
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

/// What follows the end of a result: nothing, because the driver sends one statement at a time.
fn ended(packet: &[u8]) -> Result<Expected, Violation> {
    let status = || {
        let mut fields = Fields(&packet[1..]);
        if packet[0] == EOF && packet.len() < 9 {
            // The number of warnings.
            fields.take(2)?;
        } else {
            // The number of written rows, and the last generated number.
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

/// Skips a number that starts with its length in bytes.
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
            // A command has number 0; a continuation has a greater one.
            let expected = match (number, command) {
                // Closing the connection or a statement, or sending an argument: the server does not answer.
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
