//! One page with everything for readers. It needs no network and no other file, and has no script.

use std::fmt::Write;

use anyhow::Result;

use super::super::results::Results;
use super::{escaped, grid, notes, shell_words, subject, svg};

const STYLE: &str = "\
body { font-family: sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
table { font-size: .9rem }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
div { overflow-x: auto }
code { overflow-wrap: anywhere }
dt { margin-top: .8rem; font-weight: bold }
svg { max-width: 100%; height: auto }";

#[expect(clippy::unnecessary_wraps, reason = "every form has this face")]
pub(in super::super) fn text(results: &Results) -> Result<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>Boot times</title>\n<style>\n{STYLE}\n</style>\n\
         </head>\n<body>\n<h1>Boot times</h1>\n<p>{}</p>\n",
        escaped(&subject(results))
    );
    table(&mut page, results);
    for note in notes(results) {
        let _ = writeln!(page, "<p>{}</p>", escaped(&note));
    }
    let _ = writeln!(page, "<div>\n{}</div>\n<h2>Commands</h2>\n<dl>", svg::drawing(results));
    for measured in &results.configurations {
        let _ = writeln!(
            page,
            "<dt>{}</dt>\n<dd>{}</dd>\n<dd>Command line of the kernel: <code>{}</code></dd>\n<dd>Program: <code>{}</code></dd>",
            escaped(&measured.name),
            escaped(measured.version.as_deref().unwrap_or("Version unknown")),
            escaped(&measured.cmdline),
            escaped(&shell_words(&measured.command))
        );
    }
    page.push_str("</dl>\n</body>\n</html>\n");
    Ok(page)
}

fn table(page: &mut String, results: &Results) {
    let (head, rows) = grid(results);
    page.push_str("<div><table>\n<thead><tr>");
    for cell in head {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escaped(cell));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escaped(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::{measured, results};
    use super::super::super::vmm::Vmm;
    use super::*;

    #[test]
    fn text_of_all_kinds_stays_text() {
        let mut bench =
            results(vec![measured(Vmm::Snowboot, None, &[0.5]), measured(Vmm::Qemu, None, &[1.0])]);
        let nasty = "</code><script>alert(1)</script>\u{1b}&amp;";
        bench.configurations[1].name = nasty.to_owned();
        bench.configurations[1].cmdline = nasty.to_owned();
        bench.configurations[1].command = vec![nasty.to_owned()];
        bench.settings.marker = nasty.to_owned();
        bench.left_out = vec![nasty.to_owned()];
        let page = text(&bench).unwrap();
        // The page is XML, too, so a parser for that can tell its elements.
        let body = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
        let document = roxmltree::Document::parse(body).unwrap();
        assert!(!document.descendants().any(|node| node.tag_name().name() == "script"));
        assert_eq!(document.descendants().filter(|node| node.tag_name().name() == "tr").count(), 3);
        assert!(document.descendants().any(|node| node.tag_name().name() == "svg"));
        assert!(!page.contains("src=") && !page.contains("href="), "nothing from elsewhere");
        assert!(page.contains("0.50 x"));
    }
}
