//! The dashboard as HTML. `maud` escapes every text and attribute that is put in.

use maud::{DOCTYPE, Markup, html};
use mcpm_shared::token::Token;

use super::history::Chart;
use super::view::{Action, Cell, Row, Table, Tile, Tone, View};

/// Names the files that belong to this version, so that browsers may keep them.
const CSS: &str = concat!("dashboard.css?v=", env!("CARGO_PKG_VERSION"));
const JS: &str = concat!("dashboard.js?v=", env!("CARGO_PKG_VERSION"));
const ICON: &str = concat!("dashboard.svg?v=", env!("CARGO_PKG_VERSION"));

/// The page where the admin token is asked for, with what went wrong before.
pub(super) fn login(problem: Option<&str>) -> String {
    let body = html! {
        main.login {
            form.card method="post" action="login" {
                h1 { "mcpm relay" }
                p.note { "The admin token is in " code { "admin.token" } " in the data directory." }
                @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
                label for="token" { "Admin token" }
                input #token type="password" name="token" autocomplete="current-password" required autofocus;
                button.main type="submit" { "Log in" }
            }
        }
    };
    whole("Log in · mcpm relay", None, &body)
}

/// The page itself.
pub(super) fn dashboard(view: &View, wanted: &str, csrf: &Token, notice: Option<String>) -> String {
    let body = html! {
        header.bar {
            img src=(ICON) alt="" width="28" height="28";
            h1 { (view.domain) }
            p.node { "node " b { (view.node) } " · " (view.version) " · up " span #uptime { (view.uptime) } }
            p.phase #phase data-phase=(view.phase) { (view.phase) }
            form.out method="post" action="logout" { (field(csrf)) button type="submit" { "Log out" } }
        }
        main {
            @if let Some(notice) = notice { p.notice role="status" { (notice) } }
            p.notice.bad #stale hidden role="alert" { "The relay does not answer: what is shown is old." }
            section.tiles aria-label="Now" { @for tile in &view.tiles { (self::tile(tile)) } }
            (chart(&view.chart))
            form.search method="get" action="./" role="search" {
                label for="q" { "Name or owner" }
                input #q type="search" name="q" value=(wanted) placeholder="Find a name or an owner";
                button type="submit" { "Find" }
            }
            @for table in &view.tables { (self::table(table, csrf)) }
        }
        footer { p { "Also as " a href="metrics" { "metrics" } " and " code { "api/v1" } "." } }
    };
    whole(&format!("{} · mcpm relay", view.domain), Some(csrf), &body)
}

fn whole(title: &str, csrf: Option<&Token>, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                @if let Some(csrf) = csrf { meta name="csrf" content=(csrf.expose()); }
                title { (title) }
                link rel="icon" href=(ICON) type="image/svg+xml";
                link rel="stylesheet" href=(CSS);
                @if csrf.is_some() { script src=(JS) defer {} }
            }
            body { (body) }
        }
    };
    page.into_string()
}

fn field(csrf: &Token) -> Markup {
    html! { input type="hidden" name="csrf" value=(csrf.expose()); }
}

fn tile(tile: &Tile) -> Markup {
    html! {
        div class={ "tile " (tile.tone.class()) } id={ "tile-" (tile.id) } {
            h2 { (tile.label) }
            p.value { (tile.value) }
            p.note { (tile.note) }
        }
    }
}

fn chart(chart: &Chart) -> Markup {
    html! {
        section.card #chart {
            h2 { "Answers a second" }
            ul.legend { @for line in &chart.lines { li class=(line.id) { (line.label) } } }
            p.top #chart-top { (chart.top) }
            svg viewBox="0 0 600 120" preserveAspectRatio="none" role="img" aria-label="Answers a second" {
                path.grid d="M0 1H600M0 60H600M0 119H600" {}
                @for line in &chart.lines {
                    path class={ "line " (line.id) } id={ "line-" (line.id) } d=(line.path) {}
                }
            }
            p.span { span #chart-span { (chart.span) } " ago" span.now { "now" } }
        }
    }
}

fn table(table: &Table, csrf: &Token) -> Markup {
    let actions = table.rows.iter().any(|row| !row.actions.is_empty());
    html! {
        section.card id={ "table-" (table.id) } {
            h2 { (table.title) " " span.count { (table.note) } }
            p.empty hidden[!table.rows.is_empty()] { (table.empty) }
            div.scroll hidden[table.rows.is_empty()] {
                table {
                    thead {
                        tr {
                            @for (n, head) in table.head.iter().enumerate() {
                                th class=[is_number(table, n).then_some("number")] scope="col" { (head) }
                            }
                            @if actions { th scope="col" { span.hidden { "Actions" } } }
                        }
                    }
                    tbody { @for row in &table.rows { (self::row(row, csrf)) } }
                }
            }
        }
    }
}

fn is_number(table: &Table, column: usize) -> bool {
    let cell = table.rows.first().and_then(|row| row.cells.get(column));
    cell.is_some_and(|cell| cell.number)
}

fn row(row: &Row, csrf: &Token) -> Markup {
    html! {
        tr {
            @for cell in &row.cells { (self::cell(cell)) }
            @if !row.actions.is_empty() {
                td.actions { @for action in &row.actions { (self::action(action, csrf)) } }
            }
        }
    }
}

fn cell(cell: &Cell) -> Markup {
    let class = match (cell.number, cell.tone) {
        (false, Tone::Plain) => None,
        (number, tone) => Some(format!("{}{}", if number { "number " } else { "" }, tone.class())),
    };
    html! {
        td class=[class] title=[&cell.title] {
            @match &cell.href {
                Some(href) => a href=(href) rel="noreferrer noopener" target="_blank" { (cell.text) },
                None => span { (cell.text) },
            }
        }
    }
}

fn action(action: &Action, csrf: &Token) -> Markup {
    html! {
        form method="post" action=(action.path) data-confirm=(action.confirm) {
            (field(csrf))
            button type="submit" { (action.label) }
        }
    }
}
