
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = id => document.getElementById(id);
const UNPACKED = 1, PACKED = 2;
// What nobody sees, or what steers how a line is read, is shown as its number.
const shown = text => String(text).replace(
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu,
  mark => "\\u{" + mark.codePointAt(0).toString(16) + "}");

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit ? count.toFixed(2) : count) + " " + units[unit];
}

function counted(count, what) {
  return count.toLocaleString("en") + " " + what + (count === 1 ? "" : "s");
}

function make(tag, options, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.map(child => child instanceof Node ? child : shown(child)));
  return element;
}

// --- The tree: image, layers, packages or directories, files ---------------------------------------

// A node's sizes stand where a file's row has them: its name, unpacked, compressed.
function node(name, kids, extra) {
  const sum = measure => kids.reduce((sum, kid) => sum + kid.sizes[measure], 0);
  return Object.assign({ name, kids, sizes: [0, sum(UNPACKED), sum(PACKED)] }, extra);
}

function leaf(name, unpacked, packed, extra) {
  return Object.assign({ name, kids: [], sizes: [0, unpacked, packed] }, extra);
}

function grouped(group) {
  const pack = group.package === null ? null : data.packages[group.package];
  const name = pack ? pack.name + " " + pack.version : "/" + group.directory.replace(/^\//, "");
  const files = group.files.map(([path, unpacked, packed]) =>
    leaf(path.slice(path.lastIndexOf("/") + 1), unpacked, packed, { path: "/" + path }));
  const [count, unpacked, packed] = group.others;
  if (count > 0) files.push(leaf(counted(count, "smaller file"), unpacked, packed, { count }));
  return node(name, files, { package: group.package });
}

const layers = data.layers.map((layer, number) => {
  const kids = data.groups.filter(group => group.layer === number).map(grouped);
  const { packed, unpacked } = layer.hidden;
  if (unpacked > 0) {
    kids.push(leaf("hidden by upper layers", unpacked, packed, { hollow: true }));
  }
  const name = "layer " + layer.number + ": " + (layer.what || "of no name");
  return node(name, kids, { layer, hue: Math.round((number * 137.5) % 360) });
});

function linked(parent) {
  for (const kid of parent.kids) {
    kid.parent = parent;
    if (kid.hue === undefined) { kid.hue = parent.hue; kid.layer = parent.layer; }
    linked(kid);
  }
  return parent;
}

const hasBase = layers.some(one => one.layer.base) && layers.some(one => !one.layer.base);
const isBaseShown = () => !hasBase || find("controls").elements.base.checked;
let measure = UNPACKED;
let root;
let here;

function plant() {
  const withBase = isBaseShown();
  root = linked(node(data.image, layers.filter(one => withBase || !one.layer.base)));
  if (!here || !trail(here).includes(root)) here = root;
}

function trail(node) {
  const nodes = [];
  for (let one = node; one; one = one.parent) nodes.unshift(one);
  return nodes;
}

// --- The map ---------------------------------------------------------------------------------------

// Squarified treemaps (Bruls, Huizing, van Wijk): rows along the shorter side, each as long as its boxes
// come nearer to squares.
function squarified(nodes, { x, y, w, h }) {
  const placed = [];
  let rest = nodes.reduce((sum, node) => sum + node.sizes[measure], 0);
  for (let start = 0; start < nodes.length && w > 0 && h > 0;) {
    const side = Math.min(w, h), scale = w * h / rest;
    let end = start, row = 0, worst = Infinity;
    while (end < nodes.length) {
      const next = row + nodes[end].sizes[measure];
      const thickness = next * scale / side;
      const bad = Math.max(...[nodes[start], nodes[end]].map(node => {
        const along = node.sizes[measure] * scale / thickness;
        return Math.max(along / thickness, thickness / along);
      }));
      if (bad > worst) break;
      worst = bad; row = next; end += 1;
    }
    const thickness = row * scale / side;
    for (let offset = 0; start < end; start += 1) {
      const along = nodes[start].sizes[measure] * scale / thickness;
      placed.push([nodes[start], w >= h
        ? { x, y: y + offset, w: thickness, h: along }
        : { x: x + offset, y, w: along, h: thickness }]);
      offset += along;
    }
    if (w >= h) { x += thickness; w -= thickness; } else { y += thickness; h -= thickness; }
    rest -= row;
  }
  return placed;
}

// What would be too small to be seen stands together in one box, which goes deeper.
function laid(parent, rectangle, least) {
  const bySize = (a, b) => b.sizes[measure] - a.sizes[measure] || (a.name < b.name ? -1 : 1);
  const nodes = parent.kids.filter(kid => kid.sizes[measure] > 0).sort(bySize);
  const placed = squarified(nodes, rectangle);
  const seen = placed.findIndex(([, { w, h }]) => w < least || h < least);
  if (parent === root || seen < 1 || nodes.length - seen < 2) return placed;
  const rest = nodes.splice(seen);
  const count = rest.reduce((sum, one) => sum + (one.count || 1), 0);
  const what = rest.some(one => one.kids.length > 0) ? "smaller part" : "smaller file";
  const { hue, layer } = parent;
  nodes.push(node(counted(count, what), rest, { parent, hue, layer, together: true }));
  return squarified(nodes.sort(bySize), rectangle);
}

const HEAD = 18, MOST_BOXES = 3000, DEEPEST = 3;
const map = find("map");
let boxes = [];

function draw() {
  const focused = boxes.find(one => one.element === document.activeElement);
  map.replaceChildren();
  boxes = [];
  const whole = { x: 0, y: 0, w: map.clientWidth, h: map.clientHeight };
  nest(here, whole);
  if (boxes.length === 0) map.append(make("p", { class: "quiet" }, "Nothing here takes room."));
  const again = focused && boxes.find(one => one.node === focused.node);
  const first = again || boxes[0];
  if (first) first.element.tabIndex = 0;
  if (again) again.element.focus();
  drawTrail();
}

// Level by level, so that where there are too many boxes it is the innermost that are left out, and of these the
// smallest.
function nest(parent, rectangle) {
  let frames = [[parent, rectangle]];
  for (let depth = 1; depth <= DEEPEST; depth += 1) {
    const inner = [];
    // What is smaller than this is its frame's ground.
    const least = depth === 1 ? 2 : 7;
    const placed = frames.flatMap(([node, within]) => laid(node, within, least))
      .filter(([, { w, h }]) => w >= least && h >= least);
    const left = MOST_BOXES - boxes.length;
    if (placed.length > left) placed.sort(([, a], [, b]) => b.w * b.h - a.w * a.h).splice(left);
    for (const [kid, place] of placed) {
      const { x, y, w, h } = place;
      const isFrame = depth < DEEPEST && kid.kids.length > 0 && !kid.together && w > 60 && h > 50;
      box(kid, place, isFrame);
      if (isFrame) inner.push([kid, { x: x + 3, y: y + HEAD, w: w - 6, h: h - HEAD - 3 }]);
    }
    frames = inner;
  }
}

function box(node, rectangle, isFrame) {
  const { x, y, w, h } = rectangle;
  const kind = ["box", isFrame && "frame", goal(node) && "deeper", node.hollow && "hollow"];
  const element = make("button", {
    class: kind.filter(Boolean).join(" "), type: "button", tabindex: -1, "aria-label": told(node).replaceAll("\n", ", "),
  });
  const style = { left: x, top: y, width: w, height: h };
  for (const [name, value] of Object.entries(style)) element.style[name] = value.toFixed(2) + "px";
  element.style.setProperty("--hue", node.hue);
  element.style.setProperty("--strength", node.layer.base ? "6%" : "55%");
  if (w > 30 && h > 14) element.append(make("span", {}, node.name));
  if (w > 60 && h > 32 && !isFrame) element.append(make("span", {}, bytes(node.sizes[measure])));
  map.append(element);
  boxes.push({ node, element, rectangle });
}

function told(node) {
  const all = root.sizes[measure];
  const share = all > 0 ? (100 * node.sizes[measure] / all).toFixed(1) + " %" : "";
  const lines = [
    shown(node.path || node.name),
    bytes(node.sizes[UNPACKED]) + " unpacked, " + bytes(node.sizes[PACKED]) + " compressed",
    share + " of what is shown",
  ];
  const above = trail(node).slice(1, -1).map(one => shown(one.name));
  if (above.length) lines.push("in " + above.join(", "));
  return lines.join("\n");
}

function drawTrail() {
  const nodes = trail(here);
  const parts = nodes.flatMap((one, number) => {
    const isLast = number === nodes.length - 1;
    const part = isLast
      ? make("b", { "aria-current": "true" }, one.name)
      : make("button", { class: "link", type: "button", onclick: () => go(one) }, one.name);
    return number ? [document.createTextNode(" \u203a "), part] : [part];
  });
  find("trail").replaceChildren(...parts, " " + bytes(here.sizes[measure]));
}

function go(node, from) {
  here = node;
  hideTip();
  draw();
  focus(boxes.find(one => one.node === from) || boxes[0]);
}

function focus(one) {
  if (!one) return;
  for (const other of boxes) other.element.tabIndex = -1;
  one.element.tabIndex = 0;
  one.element.focus();
}

function boxOf(event) {
  const element = event.target.closest && event.target.closest(".box");
  return boxes.find(one => one.element === element);
}

// Where a click leads: a file to what it is in, all else into itself.
function goal(node) {
  if (node.kids.length > 0) return node;
  return node.parent === here ? null : node.parent;
}

map.addEventListener("click", event => {
  const one = boxOf(event);
  const next = one && goal(one.node);
  if (next) go(next, one.node);
});

map.addEventListener("keydown", event => {
  if (event.key === "Escape" && here.parent) {
    event.preventDefault();
    return go(here.parent, here);
  }
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const way = ways[event.key], from = boxOf(event);
  if (!way || !from) return;
  event.preventDefault();
  focus(nearest(from, way));
});

// The box whose middle is nearest that way, one beside another before one aslant.
function nearest(from, [dx, dy]) {
  const middle = ({ x, y, w, h }) => [x + w / 2, y + Math.min(h, 2 * HEAD) / 2];
  const [x, y] = middle(from.rectangle);
  let best = null, least = Infinity;
  for (const one of boxes) {
    const [a, b] = middle(one.rectangle);
    const along = (a - x) * dx + (b - y) * dy;
    const aside = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
    const distance = along + 2 * aside;
    if (along > 0.5 && distance < least) { best = one; least = distance; }
  }
  return best;
}

const tip = find("tip");

function showTip(one, x, y) {
  tip.textContent = told(one.node);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - width - 4)) + "px";
  tip.style.top = (y + 18 + height > innerHeight ? Math.max(4, y - height - 8) : y + 18) + "px";
}

function hideTip() { tip.hidden = true; }

map.addEventListener("mousemove", event => {
  const one = boxOf(event);
  if (one) showTip(one, event.clientX, event.clientY); else hideTip();
});
map.addEventListener("mouseleave", hideTip);
map.addEventListener("focusin", event => {
  const one = boxOf(event);
  if (!one) return;
  const { left, top } = one.element.getBoundingClientRect();
  showTip(one, left, top);
});
map.addEventListener("focusout", hideTip);

// --- The tables ------------------------------------------------------------------------------------

const number = { class: "number" };

function fill(id, heads, rows) {
  find(id).tHead.replaceChildren(make("tr", {}, ...heads.map(([head, options]) => make("th", options, head))));
  find(id).tBodies[0].replaceChildren(...rows);
}

const columns = [
  ["Package", "name", {}], ["Version", "version", {}],
  ["Unpacked", "unpacked", number], ["Compressed", "packed", number],
  ["Files", "files", number], ["Left out", "left_out", number], ["Layer", "layer", number],
];
const packages = data.packages.map((one, place) => Object.assign({ place }, one));
let order = { key: "unpacked", down: true };

function compared(a, b) {
  const [x, y] = [a[order.key], b[order.key]];
  const text = typeof x === "string";
  const way = text ? x.localeCompare(y, "en", { numeric: true }) : x - y;
  return (order.down ? -way : way) || (a.name < b.name ? -1 : a.name > b.name ? 1 : a.place - b.place);
}

function packageRow(one) {
  const name = make("button", { class: "link", type: "button", onclick: () => goToPackage(one.place) }, one.name);
  return make("tr", { class: one.base ? "of-base" : "" },
    make("td", {}, name), make("td", {}, one.version),
    make("td", number, bytes(one.unpacked)), make("td", number, bytes(one.packed)),
    make("td", number, one.files), make("td", number, one.left_out || ""),
    make("td", number, one.layer + (one.base ? " (base)" : "")));
}

function drawPackages() {
  const wanted = find("filter").value.trim().toLowerCase();
  const withBase = isBaseShown();
  const rows = packages.filter(one => (withBase || !one.base)
    && (one.name + " " + one.version).toLowerCase().includes(wanted));
  rows.sort(compared);
  const heads = columns.map(([title, key, options]) => {
    const sorted = order.key === key ? (order.down ? "descending" : "ascending") : "none";
    return make("th", Object.assign({ "aria-sort": sorted, scope: "col" }, options),
      make("button", { type: "button", "data-key": key, onclick: () => sortBy(key) }, title));
  });
  find("packages").tHead.replaceChildren(make("tr", {}, ...heads));
  find("packages").tBodies[0].replaceChildren(...rows.map(packageRow));
  const sum = rows.reduce((sum, one) => sum + one.unpacked, 0);
  find("shown").textContent = counted(rows.length, "package") + ", " + bytes(sum) + " unpacked";
}

function sortBy(key) {
  const isNumber = packages.length > 0 && typeof packages[0][key] === "number";
  order = { key, down: order.key === key ? !order.down : isNumber };
  drawPackages();
  find("packages").querySelector("[data-key=" + key + "]").focus();
}

function goToPackage(place) {
  const groups = root.kids.flatMap(layer => layer.kids).filter(group => group.package === place);
  groups.sort((a, b) => b.sizes[UNPACKED] - a.sizes[UNPACKED]);
  if (groups.length === 0) return;
  map.scrollIntoView({ block: "center" });
  go(groups[0]);
}

function drawLayers() {
  const heads = [["", number], ["What it is", {}], ["Compressed", number], ["Unpacked", number], ["Files", number],
    ["Hidden by upper layers", number], ["Digest", {}]];
  fill("layers", heads, data.layers.map(one => make("tr", { class: one.base ? "of-base" : "" },
    make("td", number, one.number), make("td", {}, (one.base ? "base: " : "") + one.what),
    make("td", number, bytes(one.packed)), make("td", number, bytes(one.unpacked)),
    make("td", number, one.files.toLocaleString("en")),
    make("td", number, one.hidden.unpacked ? bytes(one.hidden.unpacked) : ""),
    make("td", { class: "code" }, one.digest))));
}

function drawFiles() {
  const heads = [["File", {}], ["Unpacked", number], ["Compressed", number], ["Package", {}], ["Layer", number]];
  const withBase = isBaseShown();
  const files = data.files.filter(one => withBase || !data.layers[one.layer - 1].base).slice(0, 10);
  fill("files", heads, files.map(one => make("tr", {},
    make("td", { class: "code" }, "/" + one.path), make("td", number, bytes(one.unpacked)),
    make("td", number, bytes(one.packed)), make("td", {}, one.package || ""), make("td", number, one.layer))));
}

// --- All else --------------------------------------------------------------------------------------

function drawHead() {
  document.title = shown(data.image) + " \u2013 lambimg inspect";
  find("name").textContent = shown(data.image);
  find("digest").textContent = shown(data.digest || "");
  const share = 100 * data.unpacked / data.limit;
  const files = data.groups.reduce((sum, group) => sum + group.files.length + group.others[0], 0);
  const totals = [
    ["Compressed", bytes(data.packed)],
    ["Unpacked", bytes(data.unpacked)],
    ["Of Lambda's " + bytes(data.limit), share.toFixed(1) + " %"],
    ["Layers", data.layers.length],
    ["Packages", data.packages.length],
    ["Files", files.toLocaleString("en")],
    ["Seen on", data.day],
  ];
  find("totals").append(...totals.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  const gauge = find("gauge");
  gauge.setAttribute("aria-label", share.toFixed(1) + " % of what Lambda takes");
  gauge.firstElementChild.style.width = Math.min(100, share) + "%";
}

function drawFindings() {
  find("summary").textContent = shown(data.summary.text);
  find("findings").append(...data.findings.map(one => {
    const { layer, path, value } = one.where;
    const place = [layer && "layer " + layer, path && "/" + path].filter(Boolean).join(" ");
    const message = value && !one.message.includes(value) ? one.message + " (" + value + ")" : one.message;
    return make("li", { class: one.level },
      make("b", {}, one.level + " " + one.rule), " ", make("span", { class: "code" }, place),
      make("p", {}, message), make("p", { class: "quiet" }, one.remedy));
  }));
}

function drawConfig() {
  const { config, base } = data;
  const hidden = "\u2026 (looks like a secret)";
  const rows = [
    ["Base", base && base.reference], ["Base's digest", base && base.digest],
    ["Base made", base && base.created && base.created.slice(0, 10)
      + (base.age === null ? "" : ", " + counted(base.age, "day") + " old")],
    ["Entry point", config.entry_point.join(" ")], ["Command", config.command.join(" ")],
    ["Working directory", config.working_directory], ["User", config.user], ["Architecture", config.architecture], ["Python", config.python],
    ...(data.left_out ? [["Left out by its build", [...data.left_out.packages,
      ...(data.left_out.files.length ? [counted(data.left_out.files.length, "file") + " of packages"] : [])].join(", ")]] : []),
    ...config.variables.map(({ name, value }) => ["Variable " + name, value === null ? hidden : value]),
    ...Object.entries(config.labels).map(([name, value]) => ["Label " + name, value === null ? hidden : value]),
  ];
  find("config").tBodies[0].append(...rows.filter(row => row[1]).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "code" }, value))));
}

find("controls").addEventListener("change", event => {
  measure = Number(find("controls").elements.measure.value);
  if (event.target.name === "base") { plant(); drawPackages(); drawFiles(); }
  draw();
});
find("controls").addEventListener("submit", event => event.preventDefault());
find("filter").addEventListener("input", drawPackages);
find("with-base").hidden = !hasBase;

drawHead();
drawFindings();
drawConfig();
drawLayers();
drawFiles();
drawPackages();
plant();
draw();
new ResizeObserver(draw).observe(map);
