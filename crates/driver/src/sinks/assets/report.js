"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const LEVELS = { debug: 0, info: 1, warning: 2, error: 3 };
  // A page with more elements than this is slow; the filters find what is not shown.
  const MOST_ROWS = 5000;
  const MOST_CONSOLE_LINES = 20000;
  const MOST_LANES = 14;
  const byId = (id) => document.getElementById(id);

  function element(tag, kind, text) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function seconds(value) {
    return value >= 60 ? Math.floor(value / 60) + " min " + (value % 60).toFixed(1) + " s" : value.toFixed(2) + " s";
  }

  // What happened, as a tree of blocks, lives of machines and consoles.
  function read(rows) {
    const run = { name: null, version: "", topology: null, machines: new Map(), root: { children: [] }, end: null, scriptEnd: null,
      last: 0, blocks: new Map() };
    const machine = (name) => {
      if (!run.machines.has(name)) run.machines.set(name, { name, starts: [], links: [], console: [] });
      return run.machines.get(name);
    };
    for (const row of rows) {
      run.last = Math.max(run.last, row.at);
      const current = row.machine === undefined || row.machine === null ? null : machine(row.machine);
      const starts = current ? current.starts : [];
      const start = starts.length ? starts[starts.length - 1] : null;
      switch (row.event) {
        case "run-begin":
          run.name = row.name;
          run.version = row.version;
          run.topology = row.topology;
          row.machines.forEach(machine);
          break;
        case "block-begin": {
          const block = { row, children: [], at: row.at, end: null, failure: null };
          run.blocks.set(row.id, block);
          (run.blocks.get(row.parent) || run.root).children.push(block);
          break;
        }
        case "block-end": {
          const block = run.blocks.get(row.id);
          if (block) {
            block.end = row.at;
            block.failure = row.failure;
          }
          break;
        }
        case "line":
          (run.blocks.get(row.block) || run.root).children.push({ row });
          break;
        case "console":
          current.console.push(row);
          if (start && start.console === null) start.console = row.at;
          run.root.children.push({ row });
          break;
        case "machine-start":
          starts.push({ at: row.at, console: null, shell: null, end: null, outcome: null, timelines: [] });
          break;
        case "machine-shell":
          if (start && start.shell === null) start.shell = row.at;
          break;
        case "machine-timeline":
          if (start) start.timelines.push(row);
          break;
        case "machine-end":
          if (start && start.end === null) {
            start.end = row.at;
            start.outcome = row.outcome;
          }
          break;
        case "machine-link":
          current.links.push(row);
          break;
        case "script-end":
          run.scriptEnd = row;
          break;
        case "run-end":
          run.end = row;
          break;
      }
    }
    return run;
  }

  function showHead(run) {
    const passed = run.end ? run.end.passed : null;
    const result = passed === null ? "unknown" : passed ? "passed" : "failed";
    byId("result").textContent = result;
    byId("result").classList.add(result);
    byId("name").textContent = run.name === null ? "(no test)" : run.name;
    document.title = result + ": " + byId("name").textContent;
    const facts = [seconds(run.last), "began " + data.began, run.machines.size + " machine(s)", "Snowboot " + run.version];
    if (run.end) facts.unshift("exit status " + run.end.status);
    byId("facts").textContent = facts.join(" \u00b7 ");
    const error = (run.end && run.end.error) || (run.scriptEnd && run.scriptEnd.error);
    if (!error) return;
    byId("error").hidden = false;
    byId("error-title").textContent = error.type;
    const place = error.line ? (error.file || "script") + ", line " + error.line : "";
    const machine = error.machine ? "machine " + error.machine : "";
    const command = error.command ? "command: " + error.command : "";
    byId("error-place").textContent = [place, machine, command].filter(Boolean).join(" \u00b7 ");
    byId("error-source").hidden = !error.source;
    byId("error-source").textContent = error.source || "";
    byId("error-message").textContent = error.message;
  }

  // The timeline

  function svg(tag, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function title(block) {
    return (block.row.subtest ? "subtest: " : block.row.machine ? block.row.machine + ": " : "") + block.row.text;
  }

  // Puts blocks into as few lanes as can be without overlaps.
  function lanes(run) {
    const chosen = [];
    const collect = (parent, depth) => {
      for (const child of parent.children) {
        if (!child.children) continue;
        if (depth < 3 || child.row.subtest) chosen.push(child);
        collect(child, depth + 1);
      }
    };
    collect(run.root, 0);
    chosen.sort((a, b) => a.at - b.at);
    const ends = [];
    const placed = [];
    for (const block of chosen) {
      const end = block.end === null ? run.last : block.end;
      let lane = ends.findIndex((free) => free <= block.at);
      if (lane < 0) lane = ends.length;
      if (lane >= MOST_LANES) continue;
      ends[lane] = end;
      placed.push({ block, lane, end });
    }
    return { placed, count: Math.max(1, ends.length) };
  }

  // What a boot reached: words and time in the run.
  function reached(row) {
    const phases = Object.entries(row.phases).filter(([, at]) => at !== null).map(([name, at]) => [name.replaceAll("_", " "), at]);
    const marks = row.marks.map((mark) => ["mark " + mark.mark, mark.at]);
    return phases.concat(marks).map(([name, at]) => [name, row.at - row.seconds + at]);
  }

  function showTimeline(run) {
    const LEFT = 130, WIDTH = 1200, HIGH = 18, TOP = 22;
    const total = Math.max(run.last, 0.001);
    const x = (at) => LEFT + (Math.min(at, total) / total) * (WIDTH - LEFT - 12);
    const test = lanes(run);
    const height = TOP + (test.count + run.machines.size) * HIGH + 14;
    const picture = svg("svg", { viewBox: "0 0 " + WIDTH + " " + height, role: "img", "aria-label": "Timeline" });
    const add = (tag, attributes, text) => picture.appendChild(svg(tag, attributes, text));
    const bar = (from, to, y, kind, words) => {
      const made = add("rect", { x: x(from), y: y + 2, width: Math.max(x(to) - x(from), 1.5), height: HIGH - 4, rx: 2,
        class: kind });
      made.appendChild(svg("title", {}, words + "\n" + seconds(from) + " to " + seconds(to) + " (" + seconds(to - from) + ")"));
      return made;
    };
    const step = [0.001, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400]
      .find((it) => total / it <= 12) || total;
    for (let at = 0; at <= total; at += step) {
      add("line", { x1: x(at), x2: x(at), y1: TOP - 6, y2: height });
      add("text", { x: x(at) + 3, y: 12, class: "tick" }, Number(at.toFixed(3)) + " s");
    }
    add("text", { x: 6, y: TOP + 13 }, "test");
    for (const { block, lane, end } of test.placed) {
      const kind = block.failure !== null ? "bad" : block.row.subtest ? "subtest" : "block";
      const made = bar(block.at, end, TOP + lane * HIGH, kind + " clickable", title(block));
      made.addEventListener("click", () => reveal(block));
    }
    let y = TOP + test.count * HIGH + 6;
    for (const machine of run.machines.values()) {
      add("text", { x: 6, y: y + 13 }, machine.name.length > 18 ? machine.name.slice(0, 17) + "\u2026" : machine.name);
      machine.starts.forEach((start, number) => {
        const end = start.end === null ? run.last : start.end;
        const words = machine.name + ", start " + (number + 1) + ": ";
        const first = Math.min(start.console === null ? (start.shell === null ? end : start.shell) : start.console, end);
        const shell = Math.min(start.shell === null ? end : start.shell, end);
        bar(start.at, first, y, "firmware", words + "start to first console line");
        if (shell > first) bar(first, shell, y, "boot", words + "boot to shell");
        start.timelines.forEach((row) => reached(row).forEach(([name, at]) => {
          const mark = add("line", { x1: x(at), x2: x(at), y1: y + 2, y2: y + HIGH - 2, class: "phase" });
          const since = (1000 * (at - row.at + row.seconds)).toFixed(1);
          mark.appendChild(svg("title", {}, words + name + " after " + since + " ms"));
        }));
        if (start.shell !== null) bar(shell, end, y, "up", words + "running" + (start.outcome ? ", then " + start.outcome : ""));
      });
      for (const link of machine.links) {
        const mark = add("line", { x1: x(link.at), x2: x(link.at), y1: y, y2: y + HIGH, class: "link" });
        mark.appendChild(svg("title", {}, "cable " + (link.up ? "plugged in" : "pulled") + " at " + seconds(link.at)));
      }
      y += HIGH;
    }
    if (run.scriptEnd) {
      const at = x(run.scriptEnd.at);
      add("line", { x1: at, x2: at, y1: TOP - 6, y2: height, class: "end" })
        .appendChild(svg("title", {}, "end of the script"));
    }
    byId("timeline").appendChild(picture);
  }

  // The networks

  const shortened = (text, most) => text.length > most ? text.slice(0, most - 1) + "\u2026" : text;

  // Machines are rows and networks are columns: a dot is a card. Ways to the host are circles in the first column.
  function showTopology(topology) {
    if (!topology || !topology.machines.some((machine) => machine.cards.length)) return;
    byId("topology-section").hidden = false;
    showCards(topology);
    const LEFT = 150, COLUMN = 150, HIGH = 30, TOP = 52;
    const toHost = topology.machines.some((machine) => machine.user_network);
    const columns = new Map(topology.networks.map((network, index) => [network.name, index + (toHost ? 1 : 0)]));
    const width = LEFT + (columns.size + (toHost ? 1 : 0)) * COLUMN + 12;
    const height = TOP + topology.machines.length * HIGH + 6;
    const picture = svg("svg", { viewBox: "0 0 " + width + " " + height, width, height, role: "img", "aria-label": "Networks" });
    const add = (tag, attributes, text) => picture.appendChild(svg(tag, attributes, text));
    const x = (network) => LEFT + (network === null ? 0 : columns.get(network)) * COLUMN + 24;
    const y = (row) => TOP + row * HIGH + HIGH / 2;
    const rows = new Map(topology.machines.map((machine, row) => [machine.name, row]));
    if (toHost) add("text", { x: x(null) - 6, y: 16 }, "to the host");
    for (const network of topology.networks) {
      const lowest = Math.max(0, ...network.members.map((member) => rows.get(member.machine)));
      add("line", { x1: x(network.name), x2: x(network.name), y1: 36, y2: y(lowest), class: "wire" });
      const words = [network.name, "VLAN " + network.vlan, network.members.length + " network card(s)"];
      if (network.description) words.splice(1, 0, network.description);
      words.push(...network.uplinks);
      add("text", { x: x(network.name) - 6, y: 16, class: "network" }, shortened(network.name, 18))
        .appendChild(svg("title", {}, words.join("\n")));
      const note = network.description || (network.name === "vlan" + network.vlan ? "" : "VLAN " + network.vlan);
      add("text", { x: x(network.name) - 6, y: 30, class: "tick" }, shortened(note, 24));
    }
    topology.machines.forEach((machine, row) => {
      const last = Math.max(0, ...machine.cards.map((card) => x(card.network)));
      if (last) add("line", { x1: LEFT - 12, x2: last, y1: y(row), y2: y(row), class: "cable" });
      add("rect", { x: 6, y: y(row) - 10, width: LEFT - 18, height: 20, rx: 4, class: "box" });
      add("text", { x: 14, y: y(row) + 4 }, shortened(machine.name, 20)).appendChild(svg("title", {}, machine.name));
      for (const card of machine.cards) {
        const dot = add("circle", { cx: x(card.network), cy: y(row), r: 5.5, class: card.network === null ? "host" : "plug" });
        const words = [machine.name + " " + card.interface, card.mac, card.network || userNetwork(machine), card.address];
        dot.appendChild(svg("title", {}, words.join("\n")));
        add("text", { x: x(card.network) + 10, y: y(row) - 4, class: "tick" }, card.interface + " " + card.address);
      }
    });
    byId("topology").appendChild(picture);
  }

  function userNetwork(machine) {
    const { restrict, dns } = machine.user_network;
    return ["user network", restrict ? "restricted" : "", dns ? "resolver " + dns : ""].filter(Boolean).join(", ");
  }

  function showCards(topology) {
    const table = element("table");
    const line = (tag, cells) => {
      const made = table.appendChild(element("tr"));
      for (const cell of cells) made.appendChild(element(tag, "", String(cell)));
    };
    line("th", ["machine", "number", "card", "Ethernet address", "network", "IPv4 address on NixOS", "forwards"]);
    for (const machine of topology.machines) {
      for (const card of machine.cards) {
        const forwards = card.network === null ? machine.user_network.forwards : [];
        const words = forwards.map((it) => {
          const ends = it.from === "host" ? ["host " + it.host, it.guest] : [it.guest, "host " + it.host];
          return it.protocol + " " + ends.join(" \u2192 ");
        });
        const network = card.network === null ? userNetwork(machine) : card.network;
        line("td", [machine.name, machine.number, card.interface, card.mac, network, card.address, words.join("\n")]);
      }
    }
    for (const network of topology.networks) {
      for (const uplink of network.uplinks) line("td", ["elsewhere", "", "", "", network.name, "", uplink]);
    }
    byId("cards").appendChild(table);
  }

  // The log

  let filter = null;

  function readFilter() {
    const words = byId("text").value.toLowerCase();
    const [machine, level, serial] = [byId("machine").value, Number(byId("level").value), byId("serial").checked];
    filter = { machine, level, serial, words, narrow: words !== "" || machine !== "" || level > 1 };
  }

  function accepts(row) {
    if (row.event === "console" && !filter.serial) return false;
    const level = row.event === "line" ? LEVELS[row.level] : row.event === "console" ? 0 : 1;
    if (level < filter.level && row.event !== "console") return false;
    if (row.event === "console" && filter.level > 1) return false;
    if (filter.machine && row.machine !== filter.machine) return false;
    return !filter.words || row.text.toLowerCase().includes(filter.words);
  }

  function matches(item) {
    if (!item.children) return accepts(item.row);
    return accepts(item.row) || item.children.some(matches);
  }

  function lineOf(row) {
    const kind = row.event === "console" ? "console" : row.level;
    const line = element("div", "row " + kind);
    line.appendChild(element("span", "when", row.at.toFixed(2).padStart(9) + "  "));
    if (row.machine) line.appendChild(element("span", "machine", row.machine + (kind === "console" ? " # " : ": ")));
    line.appendChild(document.createTextNode(row.text));
    return line;
  }

  function fill(parent, items) {
    let left = MOST_ROWS;
    for (const item of items) {
      if (!matches(item)) continue;
      if (left-- === 0) {
        parent.appendChild(element("p", "note", "More rows are not shown: use the filters."));
        break;
      }
      parent.appendChild(item.children ? detailsOf(item) : lineOf(item.row));
    }
  }

  function detailsOf(block) {
    const made = element("details", block.failure !== null ? "failed" : "");
    const summary = made.appendChild(element("summary"));
    summary.appendChild(element("span", "when", block.at.toFixed(2).padStart(9) + "  "));
    summary.appendChild(element("span", "title", title(block)));
    const took = block.end === null ? "did not end" : seconds(block.end - block.at);
    summary.appendChild(element("span", "took", "  " + took));
    let filled = false;
    const open = () => {
      if (filled || !made.open) return;
      filled = true;
      if (block.failure) made.appendChild(element("div", "failure", block.failure));
      fill(made, block.children);
    };
    made.addEventListener("toggle", open);
    made.reveal = () => { made.open = true; open(); };
    block.shown = made;
    if (block.failure !== null || filter.narrow) made.reveal();
    return made;
  }

  function showLog() {
    readFilter();
    for (const block of run.blocks.values()) block.shown = null;
    byId("log").replaceChildren();
    fill(byId("log"), run.root.children);
  }

  function reveal(block) {
    const path = [];
    for (let at = block; at; at = run.blocks.get(at.row.parent)) path.unshift(at);
    for (const part of path) if (part.shown) part.shown.reveal();
    const target = block.shown || byId("log");
    target.scrollIntoView({ block: "center" });
    target.classList.add("flash");
    setTimeout(() => target.classList.remove("flash"), 1500);
  }

  // The consoles

  function showConsoles() {
    readFilter();
    const open = new Set([...byId("consoles").children].filter((it) => it.open).map((it) => it.dataset.machine));
    byId("consoles").replaceChildren();
    for (const machine of run.machines.values()) {
      if (filter.machine && machine.name !== filter.machine) continue;
      const rows = machine.console.filter((row) => !filter.words || row.text.toLowerCase().includes(filter.words));
      const made = element("details");
      made.dataset.machine = machine.name;
      const summary = made.appendChild(element("summary"));
      summary.appendChild(element("span", "title", machine.name));
      summary.appendChild(element("span", "took", "  " + rows.length + " of " + machine.console.length + " lines"));
      const cut = data.cut.consoles[machine.name];
      if (cut) made.appendChild(element("p", "note", cut + " earlier lines are not in this report."));
      const show = () => {
        if (!made.open || made.querySelector("pre")) return;
        const last = rows.slice(-MOST_CONSOLE_LINES);
        if (last.length < rows.length) made.appendChild(element("p", "note", "The last " + last.length + " lines:"));
        const text = last.map((row) => row.at.toFixed(2).padStart(9) + "  " + row.text).join("\n");
        made.appendChild(element("pre", "", text));
      };
      made.addEventListener("toggle", show);
      made.open = open.has(machine.name);
      show();
      byId("consoles").appendChild(made);
    }
  }

  const run = read(data.rows);
  showHead(run);
  showTimeline(run);
  showTopology(run.topology);
  for (const name of run.machines.keys()) {
    const option = element("option", "", name);
    option.value = name;
    byId("machine").appendChild(option);
  }
  if (data.cut.lines || data.cut.blocks) {
    byId("log-note").hidden = false;
    byId("log-note").textContent = (data.cut.lines + data.cut.blocks) + " earlier events are not in this report.";
  }
  const show = () => { showLog(); showConsoles(); };
  for (const id of ["machine", "level", "serial"]) byId(id).addEventListener("change", show);
  let pause = 0;
  byId("text").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(show, 200); });
  byId("expand").addEventListener("click", () => {
    // Blocks come into the page when the one around them is opened, so in their order.
    for (const block of [...run.blocks.values()].slice(0, MOST_ROWS)) if (block.shown) block.shown.reveal();
  });
  byId("collapse").addEventListener("click", () => {
    for (const block of run.blocks.values()) if (block.shown) block.shown.open = false;
  });
  byId("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
  show();
})();
