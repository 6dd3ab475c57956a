// The status page: follows /api/events and writes what it says into the document.
//
// Cells are updated in place, so that focus, selection and a reader's place survive every second.
// Text from the node only ever becomes text nodes, never markup.

const $ = (id) => document.getElementById(id);

// === Words and numbers ===

const STATES = {
  ready: ["good", "●"], ok: ["good", "●"], idle: ["idle", "○"],
  degraded: ["warn", "▲"], draining: ["warn", "▲"], starting: ["warn", "▲"],
  suspect: ["warn", "▲"], dead: ["bad", "■"], left: ["idle", "○"], absent: ["idle", "○"],
  failing: ["bad", "■"], unreachable: ["bad", "■"], not_ready: ["bad", "■"],
};
const look = (state) => STATES[state] ?? ["warn", "▲"];

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const few = (n) => (n < 10 ? tenth : whole).format(n);
function millis(ms) {
  if (ms == null) return NONE;
  if (ms < 0.1) return "<0.1 ms";
  return ms >= 1000 ? `${tenth.format(ms / 1000)} s` : `${few(ms)} ms`;
}
// Rounded down: 99.97 % is not 100 %.
const share = (x) => (x == null ? NONE : `${tenth.format(Math.floor(x * 1000) / 10)} %`);

function span(seconds) {
  if (seconds < 60) return `${whole.format(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}
const ago = (seconds) => (seconds == null ? "never" : seconds < 2 ? "now" : `${span(seconds)} ago`);

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${few(n)} ${units[unit]}`;
}

// === Document ===

function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Sets text only when it differs: an unchanged node keeps its selection and is not announced again.
function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

function style(node, base, ...more) {
  const wanted = [base, ...more].filter(Boolean).join(" ");
  if (node.className !== wanted) node.className = wanted;
}

// Makes `parent` have one child per item, keyed, in order; `make` builds one, `update` fills it.
// Children without a key stay in front.
function keyed(parent, items, key, make, update) {
  const keyless = [...parent.children].filter((child) => child.dataset.key === undefined).length;
  const old = new Map([...parent.children].slice(keyless).map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const id = key(item);
    let child = old.get(id);
    if (child) old.delete(id);
    else { child = make(item); child.dataset.key = id; }
    const there = parent.children[keyless + index] ?? null;
    if (there !== child) parent.insertBefore(child, there);
    update(child, item);
  });
  for (const gone of old.values()) gone.remove();
}

// === Help ===

const HELP = {
  "Server": "Name, transport and addresses of the server, as configured.",
  "State": "ok: calls succeed. idle: no call for a minute. degraded: 1 % of calls or more fail, or no new connection is possible. failing: half of them or more. unreachable: no connection is possible and calls fail or are absent.",
  "Calls/s": "Calls per second that ended in the last minute.",
  "Success": "Share of calls that neither the gateway nor the network failed. The server's own JSON-RPC errors count as success: the transport worked.",
  "p50": "Half of the calls of the last minute were faster, from receipt to the end of the answer.",
  "p99": "99 of 100 calls of the last minute were faster.",
  "In flight": "Calls that are in the gateway now.",
  "Sessions": "At a server: sessions the gateway holds there. Of the node: live client sessions, and how many may be.",
  "Streams": "Open SSE streams and WebSocket connections to clients, and how many may be.",
  "Connections": "Open client connections, and how many may be.",
  "Versions": "MCP revisions that clients and the server have agreed on.",
  "Nodes": "The nodes of the cluster as this one sees them. ready: serves. draining: ends its calls and leaves. suspect: silent for a moment. dead: silent for the failover timeout; the others have taken over. left: gone in order. absent: configured, and never there. The leader is the coordinator: it decides for all.",
  "Term": "Rises with every election. All nodes should be in the same one.",
  "Lag": "Entries of the group's log that the node has yet to take over.",
  "Last success": "When a call last succeeded.",
  "Last error": "What failed last at this server, and when.",
};

const tip = el("div");
tip.id = "tip";
tip.role = "tooltip";
tip.hidden = true;
document.body.append(tip);

function showTip(target) {
  tip.textContent = HELP[target.dataset.help];
  tip.hidden = false;
  const at = target.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8));
  const below = at.bottom + 6 + tip.offsetHeight <= innerHeight;
  // The page's policy forbids style attributes in markup; the object model may set them.
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? at.bottom + 6 : at.top - 6 - tip.offsetHeight}px`;
}

function helped(word) {
  const node = el("span", "help", word);
  node.tabIndex = 0;
  node.dataset.help = word;
  node.setAttribute("aria-describedby", "tip");
  for (const event of ["mouseenter", "focus"]) node.addEventListener(event, () => showTip(node));
  for (const event of ["mouseleave", "blur"]) node.addEventListener(event, () => { tip.hidden = true; });
  return node;
}

for (const [word, text] of Object.entries(HELP)) {
  $("help-list").append(el("dt", "", word), el("dd", "", text));
}
$("help-open").addEventListener("click", () => $("help").showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hidden = true;
  const typing = event.target.closest?.("input") || document.querySelector("dialog[open]");
  if (event.key === "?" && !typing) $("help").showModal();
});

// === Servers ===

const COLUMNS = [
  // heading, class, cell(server) → [text, small print]
  ["State", "", (s) => [`${look(s.state)[1]} ${s.state}`]],
  ["Calls/s", "number", (s) => [few(s.recent.rate), `${whole.format(s.total.calls)} in all`]],
  ["Success", "number", (s) => [share(s.recent.success)]],
  ["p50", "number", (s) => [millis(s.recent.p50_ms)]],
  ["p99", "number", (s) => [millis(s.recent.p99_ms)]],
  ["In flight", "number", (s) => [whole.format(s.in_flight)]],
  ["Sessions", "number", (s) => [whole.format(s.sessions), processes(s)]],
  ["Versions", "", (s) => [s.versions.join(", ") || NONE]],
  ["Last success", "", (s) => [ago(s.last_success_s)]],
  ["Last error", "", (s) => [s.last_error ? ago(s.last_error.age_s) : "none"]],
];

function processes(server) {
  const p = server.processes;
  if (!p) return null;
  const exits = p.exited ? `, ${p.exited} exited` : "";
  return `${p.running} process${p.running === 1 ? "" : "es"}${exits}`;
}

for (const [word, className] of [["Server", ""], ...COLUMNS]) {
  const th = el("th", className, helped(word));
  th.scope = "col";
  $("columns").append(th);
}

// A row of figures, and below it one for what needs the whole width: reason and last error.
function makeServer() {
  const name = el("th", "", el("span"), el("small", "cut"));
  name.scope = "row";
  const figures = el("tr", "", name, ...COLUMNS.map(([, className]) => el("td", className, el("span"), el("small"))));
  const words = el("td", "", el("p", "words"), el("p", "words"));
  words.colSpan = COLUMNS.length + 1;
  return el("tbody", "", figures, el("tr", "more", words));
}

function updateServer(body, server) {
  const [figures, more] = body.children;
  const [name, ...cells] = figures.children;
  say(name.children[0], server.name);
  const targets = server.instances.map((i) => i.target).join(", ");
  say(name.children[1], `${server.transport} · ${targets}`);
  name.children[1].title = targets;
  COLUMNS.forEach(([, , cell], index) => {
    const [text, small] = cell(server);
    const [main, print] = cells[index].children;
    say(main, text);
    say(print, small ?? "");
  });
  const className = look(server.state)[0];
  style(cells[0].children[0], "state", className);

  const [reason, error] = more.children[0].children;
  say(reason, server.reason ? `Now ${server.state}: ${server.reason}` : "");
  style(reason, "words state", className);
  say(error, server.last_error ? `Last error, ${ago(server.last_error.age_s)}: ${server.last_error.text}` : "");
  reason.hidden = !server.reason;
  error.hidden = !server.last_error;
  more.hidden = reason.hidden && error.hidden;
}

// === The rest of the page ===

function figure(list, word, value, small, gauge) {
  let box = [...list.children].find((child) => child.dataset.key === word);
  if (!box) {
    box = el("div", "", el("dt", "", HELP[word] ? helped(word) : word), el("dd", "", el("span"), el("small")));
    box.dataset.key = word;
    if (gauge) {
      const meter = el("meter");
      meter.setAttribute("aria-label", `${word}: share of the limit`);
      box.append(meter);
    }
    list.append(box);
  }
  say(box.children[1].children[0], value);
  say(box.children[1].children[1], small ? ` ${small}` : "");
  if (gauge) {
    const meter = box.children[2];
    Object.assign(meter, { max: gauge.limit, high: gauge.limit * 0.8, optimum: 0, value: gauge.now });
  }
}

function updateFigures(status) {
  const list = $("figures");
  const { recent, usage } = status;
  figure(list, "Calls/s", few(recent.rate), recent.window_s < 59 ? `over ${whole.format(recent.window_s)} s` : "");
  figure(list, "Success", share(recent.success));
  figure(list, "p50", millis(recent.p50_ms));
  figure(list, "p99", millis(recent.p99_ms));
  for (const [word, gauge] of [
    ["In flight", usage.in_flight], ["Sessions", usage.sessions],
    ["Streams", usage.streams], ["Connections", usage.connections],
  ]) {
    figure(list, word, whole.format(gauge.now), `of ${whole.format(gauge.limit)}`, gauge);
  }
}

function updateCheck(row, check) {
  const [state, name, time, detail] = row.children;
  const word = check.ok ? "ok" : check.critical ? "failed" : "trouble";
  const [className, mark] = check.ok ? look("ok") : check.critical ? look("failing") : look("degraded");
  say(state, `${mark} ${word}`);
  style(state, "state", className);
  say(name, check.name.replace(/^server:/, "server ").replace("_", " "));
  say(time, millis(check.response_time_ms));
  say(detail, check.detail ?? "");
  detail.hidden = !check.detail;
}

let previousCpu = null;

function cpuShare(status) {
  const now = performance.now() / 1000;
  const used = status.process.cpu_s;
  const before = previousCpu;
  previousCpu = used == null ? null : { at: now, used };
  if (!before || used == null || now - before.at < 0.2) return null;
  return Math.max(0, (used - before.used) / (now - before.at));
}

function updateFacts(status) {
  const { node, process, config, listeners } = status;
  const cpu = cpuShare(status);
  const facts = [
    ...listeners.map((l) => [
      `${l.name} port`,
      `${l.address}${l.tls ? ", TLS" : ""}${l.accepting ? "" : ", closed"}`,
    ]),
    ["Started", new Date(node.started_unix_s * 1000).toLocaleString()],
    ["Process", `${node.pid}, ${process.threads ?? "?"} threads, ${config.workers} workers`],
    ["CPU", cpu == null ? NONE : `${whole.format(cpu * 100)} % of one core`],
    ["Memory", process.resident_bytes == null ? NONE : bytes(process.resident_bytes)],
    ["Descriptors", process.open_fds == null ? NONE : `${whole.format(process.open_fds)} of ${whole.format(process.max_fds)}`],
    ["Clients", config.auth ? `need an API key (${config.principals} principals)` : "need no key: everyone is one principal"],
    ["Session store", config.store],
  ];
  const list = $("facts");
  while (list.children.length > facts.length * 2) list.lastChild.remove();
  facts.forEach(([word, text], index) => {
    if (!list.children[index * 2]) list.append(el("dt"), el("dd"));
    say(list.children[index * 2], word);
    say(list.children[index * 2 + 1], text);
  });
}

// === The cluster ===

const NODE_FIGURES = [
  ["Term", (n) => n.term], ["Lag", (n) => n.commit_lag],
  ["Sessions", (n) => n.sessions], ["In flight", (n) => n.in_flight],
];

function makeNode() {
  const head = el("p", "node-name", el("strong"), el("small", "quiet"));
  const figures = el("dl", "", ...NODE_FIGURES.map(([word]) => el("div", "", el("dt", "", helped(word)), el("dd"))));
  return el("li", "", head, el("p", "", el("span", "state"), el("span", "quiet")), figures);
}

function updateNode(card, node, me) {
  const [head, line, figures] = card.children;
  say(head.children[0], node.name);
  say(head.children[1], node.name === me ? " this node" : "");
  const [className, mark] = look(node.state);
  say(line.children[0], `${mark} ${node.state}`);
  style(line.children[0], "state", className);
  const role = node.role === "unknown" ? null : node.role;
  const heard = node.last_heard_ms > 2000 ? `heard ${ago(Math.floor(node.last_heard_ms / 1000))}` : null;
  say(line.children[1], ` ${[role, heard].filter(Boolean).join(", ")}`);
  NODE_FIGURES.forEach(([, value], index) => {
    const number = value(node);
    say(figures.children[index].children[1], number == null ? NONE : whole.format(number));
  });
  card.title = [node.client && `clients: ${node.client}`, node.version && `version ${node.version}`,
    node.generation && `generation ${node.generation}`].filter(Boolean).join(", ");
}

function updateCluster(cluster) {
  $("cluster").hidden = !cluster;
  if (!cluster) return;
  const lead = cluster.quorum === false ? "no quorum: nothing can be decided until a majority is there"
    : cluster.leader ? `${cluster.leader} is the coordinator` : "no coordinator is known";
  const ready = cluster.nodes.filter((n) => n.state === "ready").length;
  say($("cluster-summary"), `${ready} of ${cluster.nodes.length} ready; ${lead}`);
  style($("cluster-summary"), cluster.quorum === false ? "state bad" : "quiet");
  keyed($("nodes"), cluster.nodes, (n) => n.name, makeNode, (card, node) => updateNode(card, node, cluster.me));
}

let lastVerdict = "";

function showVerdict(state, text) {
  const [className, mark] = look(state);
  style($("verdict"), "verdict", className);
  say($("verdict").children[0], mark);
  say($("verdict").children[1], text);
}

function update(status) {
  document.querySelector("main").hidden = false;
  const { verdict, node } = status;
  lastVerdict = verdict.text;
  showVerdict(verdict.state, verdict.text);
  say($("node"), `${node.id} · version ${node.version} · up ${span(node.uptime_s)}`);
  document.title = `${look(verdict.state)[1]} ${node.id} – Holdfast`;
  updateCluster(status.cluster);
  updateFigures(status);
  $("no-servers").hidden = status.servers.length > 0;
  keyed($("servers"), status.servers, (s) => s.name, makeServer, updateServer);
  keyed($("checks"), status.checks, (c) => c.name,
    () => el("li", "", el("span", "state"), el("span"), el("span", "quiet"), el("span", "detail")), updateCheck);
  updateFacts(status);
  say($("sessions-count"), whole.format(status.usage.sessions.now));
}

// === Asking the node ===

let token = sessionStorage.getItem("token");

class Unauthorized extends Error {}

async function ask(path, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, signal, cache: "no-store" });
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer;
}

function askForToken() {
  if (token) say($("token-problem"), "That was not the token in admin.token.");
  sessionStorage.removeItem("token");
  const dialog = $("token");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      token = $("token-value").value.trim();
      $("token-value").value = "";
      sessionStorage.setItem("token", token);
      resolve();
    }, { once: true });
  });
}

// One stream of server-sent events, read with fetch because EventSource cannot carry the token.
async function follow() {
  const stop = new AbortController();
  // The node speaks every second; after eight of silence the connection is as good as gone.
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => stop.abort(), 8000);
  };
  heard();
  try {
    const answer = await ask("/api/events", stop.signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard();
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length === 0) continue;
        update(JSON.parse(data.join("\n")));
        connected(true);
      }
    }
  } finally {
    clearTimeout(silence);
    stop.abort();
  }
}

let lostAt = null;

function connected(yes) {
  lostAt = yes ? null : (lostAt ?? Date.now());
  style($("feed"), "feed", yes ? "quiet" : "lost");
  say($("feed"), yes ? "live" : `no connection for ${span(Math.round((Date.now() - lostAt) / 1000))}, trying again`);
  if (!yes) {
    document.title = "■ no connection – Holdfast";
    showVerdict("unreachable", `No connection to the node. Its last word: ${lastVerdict}`);
  }
  document.querySelector("main").classList.toggle("stale", !yes);
}

async function run() {
  for (;;) {
    try {
      await follow();
    } catch (problem) {
      if (problem instanceof Unauthorized) {
        await askForToken();
        continue;
      }
    }
    connected(false);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

// === Sessions, when someone looks ===

const PAGE = 50;
let offset = 0;

async function showSessions() {
  const details = $("sessions");
  if (!details.open) return;
  let page;
  try {
    page = await (await ask(`/api/sessions?offset=${offset}&limit=${PAGE}`)).json();
  } catch {
    return; // the feed says that the node is away
  }
  if (offset > 0 && page.sessions.length === 0) {
    offset = Math.max(0, offset - PAGE);
    return showSessions();
  }
  keyed($("session-rows"), page.sessions, (s) => s.digest,
    () => el("tr", "", el("td", "", el("code")), ...Array.from({ length: 5 }, () => el("td")), el("td", "number"), el("td", "number")),
    (row, s) => {
      say(row.children[0].firstChild, s.digest);
      const where = [s.instance && `instance ${s.instance}`, s.node && `node ${s.node}`].filter(Boolean);
      [s.server, where.join(", ") || NONE, s.principal, s.client ?? NONE, s.version, span(s.age_s), span(s.idle_s)]
        .forEach((text, index) => say(row.children[index + 1], text));
    });
  const last = offset + page.sessions.length;
  say($("sessions-range"), page.total ? `${offset + 1} to ${last} of ${whole.format(page.total)}` : "none");
  $("earlier").disabled = offset === 0;
  $("later").disabled = last >= page.total;
}

const turn = (by) => () => { offset = Math.max(0, offset + by); showSessions(); };
$("earlier").addEventListener("click", turn(-PAGE));
$("later").addEventListener("click", turn(PAGE));
$("sessions").addEventListener("toggle", showSessions);
setInterval(showSessions, 5000);

run();
