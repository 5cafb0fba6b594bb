//! The first table in the docs of a file.

/// The names of the states, and of each row its name and its cells.
pub struct Table {
    pub states: Vec<String>,
    pub rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub fn read(source: &str) -> Table {
        let lines = source.lines().skip_while(|line| !line.starts_with("//! |"));
        let mut lines = lines.take_while(|line| line.starts_with("//! |")).map(|line| {
            let row = line.trim_start_matches("//! |").trim_end_matches('|');
            row.split('|').map(|cell| without_links(cell.trim())).collect::<Vec<_>>()
        });
        let mut states = lines.next().expect("the docs have a table");
        states.remove(0);
        let rows = lines.skip(1).map(|mut cells| (cells.remove(0), cells)).collect();
        Table { states, rows }
    }
}

/// Markdown as plain text. A link to a method is the method's path.
fn without_links(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, link)) = rest.split_once('[') {
        let (label, after) = link.split_once(']').expect("a link ends");
        text.push_str(before);
        match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((target, after)) => {
                text.push_str(target);
                rest = after;
            }
            None => {
                text.push_str(label);
                rest = after;
            }
        }
    }
    (text + rest).replace('`', "")
}
