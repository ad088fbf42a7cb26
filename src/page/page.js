'use strict';
// Both graphs on canvases: only what is in view is drawn. What comes from the models is text, never markup.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, parent, name) => {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    if (name) element.className = name;
    if (parent) parent.append(element);
    return element;
  };
  // Kind: letter, colour, what it means. The letter says what the colour says.
  const KINDS = {
    input: ['I', 'pink', 'input'], output: ['O', 'pink', 'output'], model: ['H', 'pink', 'model'],
    fused: ['F', 'blue', 'fused'], replaced: ['R', 'blue', 'replaced'], split: ['Y', 'blue', 'split'],
    quantized: ['Q', 'violet', 'quantized'], stored: ['S', 'violet', 'stored'], folded: ['C', 'blue', 'folded'],
    merged: ['E', 'blue', 'merged'], bypassed: ['P', 'blue', 'bypassed'], dead: ['D', 'red', 'dead'],
    moved: ['M', 'amber', 'moved'], rewired: ['W', 'amber', 'rewired'], changed: ['~', 'amber', 'changed'],
    inserted: ['+', 'green', 'inserted'], added: ['+', 'green', 'added'], removed: ['−', 'red', 'removed'],
  };
  const changes = data.diff.changes, hidden = new Set();
  const sides = ['a', 'b'];
  const H = 30;

  // ---- what belongs to what
  const graphs = sides.map((key, side) => {
    const graph = data[key], count = graph.nodes.length;
    const g = { key, side, nodes: graph.nodes, ops: graph.ops, change: new Int32Array(count).fill(-1), twin: new Int32Array(count).fill(-1) };
    g.edges = graph.edges.map(([from, to, label, bends]) => ({ from, to, label, bends }));
    g.rows = new Map();
    graph.nodes.forEach((node, i) => { if (!g.rows.has(node.y)) g.rows.set(node.y, []); g.rows.get(node.y).push(i); });
    g.height = graph.nodes.reduce((max, node) => Math.max(max, node.y), 0) + H;
    g.left = graph.nodes.reduce((min, node) => Math.min(min, node.x - node.w / 2), 0);
    g.right = graph.nodes.reduce((max, node) => Math.max(max, node.x + node.w / 2), 0);
    return g;
  });
  for (const [a, b] of data.pairs) { graphs[0].twin[a] = b; graphs[1].twin[b] = a; }
  const members = changes.map((change, c) => {
    const around = data.around[c];
    const lists = around ? [[around[0]], [around[1]]] : [change.a.map((op) => op.index), change.b.map((op) => op.index)];
    if (!around) {
      const port = (kind, side) => graphs[side].nodes.findIndex((node, i) => i >= graphs[side].ops && node.type === kind && change.title.includes('`' + node.name + '`'));
      if (change.kind === 'input' || change.kind === 'output') sides.forEach((_, side) => { const i = port(change.kind, side); if (i >= 0) lists[side].push(i); });
    }
    lists.forEach((list, side) => list.forEach((i) => { if (graphs[side].change[i] < 0) graphs[side].change[i] = c; }));
    return lists;
  });

  // ---- view: the same scale and place for both sides, so that what corresponds stays side by side
  const view = { scale: 1, x: 0, y: 0 };
  const panes = sides.map((key, side) => {
    const box = $('pane-' + key), canvas = box.querySelector('canvas'), map = box.querySelector('.map');
    box.querySelector('h2').textContent = key.toUpperCase() + ' · ' + data.diff[key].path.split('/').pop();
    return { side, box, canvas, map, graph: graphs[side], w: 0, h: 0 };
  });
  let colors = {};
  const theme = (name) => {
    document.documentElement.dataset.theme = name;
    const style = getComputedStyle(document.documentElement);
    for (const key of ['back', 'panel', 'ink', 'soft', 'line', 'box', 'edge', 'accent', 'violet', 'blue', 'amber', 'green', 'red', 'pink']) {
      colors[key] = style.getPropertyValue('--' + key).trim();
    }
  };
  const selection = { sets: [new Set(), new Set()], found: [new Set(), new Set()], change: -1, hover: null };
  const screen = (side, i) => {
    const pane = panes[side], node = graphs[side].nodes[i];
    return { x: pane.w / 2 + (node.x - view.x) * view.scale, y: pane.h / 2 + (node.y - view.y) * view.scale };
  };
  let pending = false;
  const draw = () => { if (!pending) { pending = true; requestAnimationFrame(() => { pending = false; panes.forEach(paint); }); } };
  const resize = () => {
    for (const pane of panes) {
      const ratio = window.devicePixelRatio || 1;
      pane.w = pane.box.clientWidth - 22; pane.h = pane.box.clientHeight;
      for (const [canvas, width] of [[pane.canvas, pane.box.clientWidth], [pane.map, 22]]) {
        canvas.width = Math.max(1, width * ratio); canvas.height = Math.max(1, pane.h * ratio);
        canvas.getContext('2d').setTransform(ratio, 0, 0, ratio, 0, 0);
      }
    }
    draw();
  };
  const kindOf = (graph, i) => { const c = graph.change[i]; return c >= 0 && !hidden.has(changes[c].kind) ? changes[c].kind : null; };
  const colorOf = (kind) => colors[KINDS[kind][1]];
  const fade = (color, alpha) => { // colours are #rrggbb
    const n = parseInt(color.slice(1, 7), 16);
    return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})`;
  };

  function paint(pane) {
    const { canvas, graph, side } = pane, c = canvas.getContext('2d'), s = view.scale;
    c.save();
    c.fillStyle = colors.back; c.fillRect(0, 0, pane.w + 22, pane.h);
    c.translate(pane.w / 2 - view.x * s, pane.h / 2 - view.y * s);
    c.scale(s, s);
    const top = view.y - pane.h / 2 / s - 80, bottom = view.y + pane.h / 2 / s + 80;
    const left = view.x - pane.w / 2 / s - 140, right = view.x + pane.w / 2 / s + 140;
    const chosen = selection.sets[side];
    // Edges: all plain ones in one path, those of the selection over them.
    const line = (edge) => {
      const from = graph.nodes[edge.from], to = graph.nodes[edge.to];
      const step = (to.y - from.y) / (edge.bends.length + 1);
      let x = from.x, y = from.y + H / 2;
      c.moveTo(x, y);
      for (let k = 0; k <= edge.bends.length; k++) {
        const nx = k < edge.bends.length ? edge.bends[k] : to.x;
        const ny = k < edge.bends.length ? from.y + step * (k + 1) : to.y - H / 2;
        if (nx === x) c.lineTo(nx, ny); else c.bezierCurveTo(x, (y + ny) / 2, nx, (y + ny) / 2, nx, ny);
        x = nx; y = ny;
      }
    };
    c.lineWidth = Math.max(1.2, .6 / s); c.strokeStyle = colors.edge; c.beginPath();
    const marked = [];
    for (const edge of graph.edges) {
      if (graph.nodes[edge.from].y > bottom || graph.nodes[edge.to].y < top) continue;
      if (chosen.has(edge.from) || chosen.has(edge.to)) marked.push(edge); else line(edge);
    }
    c.stroke();
    if (marked.length) { c.strokeStyle = colors.accent; c.lineWidth = Math.max(2, 1 / s); c.beginPath(); marked.forEach(line); c.stroke(); }
    if (s > .75) {
      c.font = '10px ui-monospace, Menlo, Consolas, monospace'; c.fillStyle = colors.soft; c.textAlign = 'left'; c.textBaseline = 'middle';
      for (const edge of graph.edges) {
        const from = graph.nodes[edge.from], to = graph.nodes[edge.to];
        if (from.y < top || from.y > bottom || edge.bends.length || from.x !== to.x) continue;
        if (!edge.label.includes(',') || edge.label.length < 34) c.fillText(edge.label, (from.x + to.x) / 2 + 5, (from.y + to.y) / 2);
      }
    }
    const dim = selection.change >= 0 || chosen.size > 0;
    for (const [y, row] of graph.rows) {
      if (y < top || y > bottom) continue;
      for (const i of row) {
        const node = graph.nodes[i];
        if (node.x + node.w < left || node.x - node.w > right) continue;
        box(c, graph, i, node, chosen.has(i), selection.found[side].has(i), dim, s);
      }
    }
    c.restore();
    strip(pane);
  }

  function box(c, graph, i, node, chosen, found, dim, s) {
    const kind = kindOf(graph, i), x = node.x - node.w / 2, y = node.y - H / 2, port = i >= graph.ops;
    const color = kind ? colorOf(kind) : null;
    c.globalAlpha = dim && !chosen && !found ? .62 : 1;
    c.beginPath(); c.roundRect(x, y, node.w, H, port ? H / 2 : 7);
    c.fillStyle = colors.box; c.fill();
    if (color) { c.fillStyle = fade(color, .16); c.fill(); }
    const gone = kind && ['dead', 'removed', 'bypassed', 'folded', 'merged'].includes(kind);
    c.setLineDash(gone ? [5, 3] : []);
    c.lineWidth = color ? 1.8 : 1; c.strokeStyle = color || colors.line; c.stroke();
    c.setLineDash([]);
    if (found) { c.lineWidth = 2.5; c.strokeStyle = colors.amber; c.beginPath(); c.roundRect(x - 3, y - 3, node.w + 6, H + 6, 9); c.stroke(); }
    if (chosen) {
      c.lineWidth = 3; c.strokeStyle = colors.accent; c.beginPath(); c.roundRect(x - 4, y - 4, node.w + 8, H + 8, 10); c.stroke();
    }
    if (s > .3) {
      c.textAlign = 'center'; c.textBaseline = 'middle';
      c.fillStyle = port ? colors.soft : colors.ink; c.font = (port ? 'italic 500' : '600') + ' 12.5px system-ui, sans-serif';
      const text = port ? node.name : node.type, room = node.w - 22;
      c.fillText(fitText(c, text, room), node.x + (kind ? 5 : 0), node.y + .5);
    }
    if (kind && s > .22) {
      c.fillStyle = color; c.beginPath(); c.arc(x + 1, y + H / 2, 9, 0, 7); c.fill();
      c.fillStyle = colors.panel; c.font = '700 11px ui-monospace, Menlo, Consolas, monospace'; c.textAlign = 'center'; c.textBaseline = 'middle';
      c.fillText(KINDS[kind][0], x + 1, y + H / 2 + .5);
    }
    c.globalAlpha = 1;
  }
  function fitText(c, text, room) {
    if (c.measureText(text).width <= room) return text;
    let cut = Math.max(3, Math.floor(text.length * room / c.measureText(text).width) - 1);
    return text.slice(0, cut) + '…';
  }

  // The strip at the right: where the changes are, and what is in view.
  function strip(pane) {
    const { map, graph } = pane, c = map.getContext('2d'), k = pane.h / total();
    c.clearRect(0, 0, 22, pane.h);
    for (const [y, row] of graph.rows) {
      const i = row.find((i) => kindOf(graph, i));
      c.fillStyle = i === undefined ? colors.line : colorOf(kindOf(graph, i));
      c.fillRect(5, (y + H) * k - 1, 12, i === undefined ? 1 : Math.max(2, H * k));
    }
    c.strokeStyle = colors.ink; c.lineWidth = 1.2;
    c.strokeRect(2.5, (view.y + H - pane.h / 2 / view.scale) * k, 17, Math.max(6, pane.h / view.scale * k));
  }
  const total = () => Math.max(graphs[0].height, graphs[1].height) + 2 * H;

  // ---- moving
  const clampView = () => {
    view.scale = Math.min(2.5, Math.max(.02, view.scale));
    view.y = Math.min(total(), Math.max(-H, view.y));
    const reach = Math.max(-graphs[0].left, -graphs[1].left, graphs[0].right, graphs[1].right);
    view.x = Math.min(reach, Math.max(-reach, view.x));
  };
  const zoom = (factor, pane, x, y) => {
    const before = view.scale;
    view.scale *= factor; clampView();
    if (pane) { view.x += (x - pane.w / 2) * (1 / before - 1 / view.scale); view.y += (y - pane.h / 2) * (1 / before - 1 / view.scale); }
    clampView(); draw();
  };
  const fit = () => {
    const width = Math.max(...graphs.map((g) => g.right - g.left), 1) + 60, pane = panes[0];
    view.scale = Math.min(1.1, pane.w / width, pane.h / (total() + 20));
    view.x = (graphs[0].left + graphs[0].right) / 2; view.y = (total() - 2 * H) / 2;
    clampView(); draw();
  };
  const start = () => { // readable, at the top
    const pane = panes[0], first = graphs[0].nodes[0] || { x: 0 };
    view.scale = Math.max(Math.min(1, pane.h / total()), .55); view.x = first.x; view.y = pane.h / 2 / view.scale - H;
    clampView(); draw();
  };
  const goTo = (lists) => {
    const points = lists.flatMap((list, side) => [...list].map((i) => graphs[side].nodes[i]));
    if (!points.length) return;
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y), pane = panes[0];
    const low = Math.min(...ys), high = Math.max(...ys), wide = Math.max(...xs) - Math.min(...xs);
    view.scale = Math.min(Math.max(view.scale, .6), Math.max(.05, Math.min(pane.h / (high - low + 160), pane.w / (wide + 240), 1.1)));
    view.x = (Math.max(...xs) + Math.min(...xs)) / 2; view.y = (low + high) / 2;
    clampView(); draw();
  };

  // ---- choosing
  const badge = (kind, parent) => {
    const element = make('span', KINDS[kind][0], parent, 'badge');
    element.style.setProperty('--c', `var(--${KINDS[kind][1]})`); element.title = KINDS[kind][2];
    return element;
  };
  const nothing = () => {
    selection.sets = [new Set(), new Set()]; selection.change = -1; $('details').hidden = true;
    mark(); resizeSoon(); draw();
  };
  const resizeSoon = () => requestAnimationFrame(resize);
  const mark = () => {
    document.querySelectorAll('#list li').forEach((li) => li.setAttribute('aria-current', String(Number(li.dataset.c) === selection.change)));
    $('step').textContent = changes.length ? (selection.change < 0 ? '–' : selection.change + 1) + ' / ' + changes.length : 'equal';
    const current = document.querySelector('#list li[aria-current=true]');
    if (current) current.scrollIntoView({ block: 'nearest' });
  };
  const card = (side, i, parent) => {
    const node = graphs[side].nodes[i], element = make('div', null, parent, 'card');
    const head = make('h3', node.type + ' ', element);
    make('span', sides[side].toUpperCase() + ' · ' + node.name, head);
    head.onclick = () => choose(side, i);
    const list = make('dl', null, element);
    for (const [name, value] of node.facts.slice(0, 24)) { make('dt', name, list); make('dd', value, list); }
  };
  const tellChange = (c, parent) => {
    const change = changes[c], fate = make('div', null, parent, 'fate');
    badge(change.kind, fate);
    make('span', change.title + (change.scope ? ' (in ' + change.scope + ')' : ''), fate);
    const list = make('ul', null, parent);
    data.sentences[c].slice(0, 30).forEach((text) => make('li', text, list));
    if (data.sentences[c].length > 30) make('li', 'and ' + (data.sentences[c].length - 30) + ' more', list);
  };
  const show = (lists, c, first) => {
    const panel = $('details');
    panel.replaceChildren();
    selection.sets = lists.map((list) => new Set(list)); selection.change = c;
    if (c >= 0) tellChange(c, panel);
    else make('div', first, panel, 'fate');
    const cards = make('div', null, panel, 'cards');
    lists.forEach((list, side) => [...list].slice(0, 8).forEach((i) => card(side, i, cards)));
    panel.hidden = false; panel.scrollTop = 0;
    mark(); resize();
  };
  const chooseChange = (c) => { show(members[c], c); goTo(members[c]); };
  const choose = (side, i) => {
    const graph = graphs[side], c = graph.change[i];
    if (c >= 0) { show(members[c], c); goTo(members[c]); return; }
    const lists = [[], []]; lists[side].push(i);
    if (graph.twin[i] >= 0) lists[1 - side].push(graph.twin[i]);
    const port = i >= graph.ops;
    show(lists, -1, port ? 'The same on both sides' : graph.twin[i] >= 0 ? 'Unchanged' : 'Only in ' + sides[side].toUpperCase());
    const other = 1 - side;
    if (graph.twin[i] >= 0) { const at = screen(other, graph.twin[i]); if (at.x < 0 || at.y < 0 || at.x > panes[other].w || at.y > panes[other].h) goTo(lists); }
  };
  const step = (by) => {
    const open = changes.map((_, c) => c).filter((c) => !hidden.has(changes[c].kind));
    if (!open.length) return;
    const at = open.indexOf(selection.change);
    chooseChange(open[at < 0 ? (by > 0 ? 0 : open.length - 1) : (at + by + open.length) % open.length]);
  };
  const hit = (pane, x, y) => {
    const gx = view.x + (x - pane.w / 2) / view.scale, gy = view.y + (y - pane.h / 2) / view.scale;
    for (const [rowY, row] of pane.graph.rows) {
      if (Math.abs(rowY - gy) > H / 2 + 3) continue;
      for (const i of row) { const node = pane.graph.nodes[i]; if (Math.abs(node.x - gx) <= node.w / 2 + 6) return i; }
    }
    return -1;
  };
  const tip = (pane, i, event) => {
    const element = $('tip');
    if (i < 0) { element.hidden = true; return; }
    element.replaceChildren();
    const node = pane.graph.nodes[i], c = pane.graph.change[i];
    make('b', node.type + '  ' + node.name, element);
    if (c >= 0) {
      const line = make('div', null, element); line.style.color = colorOf(changes[c].kind);
      line.textContent = KINDS[changes[c].kind][0] + '  ' + changes[c].title;
      data.sentences[c].slice(0, 5).forEach((text) => make('div', text, element));
    }
    node.facts.filter(([name]) => /→/.test(name)).slice(0, 8).forEach(([name, value]) => make('div', name + '  ' + value, element));
    element.hidden = false;
    const width = element.offsetWidth, height = element.offsetHeight;
    element.style.left = Math.min(event.clientX + 14, innerWidth - width - 8) + 'px';
    element.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 8)) + 'px';
  };

  // ---- events
  for (const pane of panes) {
    const canvas = pane.canvas;
    let drag = null;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener('pointerdown', (event) => { drag = { x: event.clientX, y: event.clientY, moved: false }; try { canvas.setPointerCapture(event.pointerId); } catch { /* made-up events have no pointer */ } });
    canvas.addEventListener('pointermove', (event) => {
      if (!drag) { const i = hit(pane, ...at(event)); canvas.style.cursor = i >= 0 ? 'pointer' : ''; tip(pane, i, event); return; }
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      drag = { x: event.clientX, y: event.clientY, moved: true };
      view.x -= dx / view.scale; view.y -= dy / view.scale; clampView(); draw();
    });
    canvas.addEventListener('pointerup', (event) => {
      const clicked = drag && !drag.moved; drag = null;
      if (!clicked) return;
      const i = hit(pane, ...at(event));
      if (i >= 0) choose(pane.side, i); else nothing();
    });
    canvas.addEventListener('pointerleave', () => { $('tip').hidden = true; });
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault(); $('tip').hidden = true;
      if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY * .006), pane, ...at(event));
      else { view.x += event.deltaX / view.scale; view.y += event.deltaY / view.scale; clampView(); draw(); }
    }, { passive: false });
    const jump = (event) => { view.y = (event.clientY - pane.map.getBoundingClientRect().top) / pane.h * total() - H; clampView(); draw(); };
    pane.map.addEventListener('pointerdown', (event) => { jump(event); pane.map.onpointermove = jump; try { pane.map.setPointerCapture(event.pointerId); } catch { /* as above */ } });
    pane.map.addEventListener('pointerup', () => { pane.map.onpointermove = null; });
  }
  let finds = [], findAt = -1;
  const search = () => {
    const text = $('search').value.trim().toLowerCase();
    finds = []; findAt = -1; selection.found = [new Set(), new Set()];
    if (text) graphs.forEach((graph, side) => graph.nodes.forEach((node, i) => {
      if (node.name.toLowerCase().includes(text) || node.type.toLowerCase().includes(text)) { finds.push([side, i]); selection.found[side].add(i); }
    }));
    $('found').textContent = text ? finds.length + ' found' : '';
    draw();
  };
  const nextFind = () => { if (finds.length) { findAt = (findAt + 1) % finds.length; const [side, i] = finds[findAt]; choose(side, i); goTo(selection.sets); } };
  $('search').addEventListener('input', search);
  $('search').addEventListener('keydown', (event) => {
    if (event.key === 'Enter') nextFind();
    if (event.key === 'Escape') { $('search').value = ''; search(); $('search').blur(); }
    event.stopPropagation();
  });
  const flip = () => { theme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'); draw(); };
  const KEYS = {
    n: () => step(1), j: () => step(1), p: () => step(-1), k: () => step(-1), f: fit, t: flip, '/': () => $('search').focus(), '?': () => $('keys').showModal(),
    '+': () => zoom(1.25), '=': () => zoom(1.25), '-': () => zoom(.8), Escape: nothing,
    ArrowUp: () => { view.y -= 120 / view.scale; clampView(); draw(); }, ArrowDown: () => { view.y += 120 / view.scale; clampView(); draw(); },
    ArrowLeft: () => { view.x -= 120 / view.scale; clampView(); draw(); }, ArrowRight: () => { view.x += 120 / view.scale; clampView(); draw(); },
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $('keys').open || !KEYS[event.key]) return;
    event.preventDefault(); KEYS[event.key]();
  });
  $('next').onclick = () => step(1); $('prev').onclick = () => step(-1); $('fit').onclick = fit; $('theme').onclick = flip; $('help').onclick = () => $('keys').showModal();
  window.addEventListener('resize', resize);

  // ---- words
  const { a, b } = data.diff, name = (path) => path.split('/').pop();
  document.title = name(a.path) + ' → ' + name(b.path);
  $('title').textContent = name(a.path) + ' → ' + name(b.path) + (data.diff.equal ? ': equal' : '');
  const percent = a.bytes ? ' (' + (100 * (b.bytes - a.bytes) / a.bytes).toFixed(1) + ' %)' : '';
  const facts = [[data.sizes[0] + ' → ' + data.sizes[1] + percent, 'file'], [a.ops + ' → ' + b.ops, 'ops'], [a.opset + ' → ' + b.opset, 'opset'], [String(changes.length), changes.length === 1 ? 'change' : 'changes']];
  facts.forEach(([value, what], k) => { if (k) $('facts').append(' · '); make('b', value, $('facts')); $('facts').append(' ' + what); });
  const count = {};
  changes.forEach((change) => { count[change.kind] = (count[change.kind] || 0) + 1; });
  for (const kind of Object.keys(KINDS)) {
    if (!count[kind]) continue;
    const button = make('button', null, $('legend'));
    badge(kind, button); button.append(KINDS[kind][2] + ' ' + count[kind]);
    button.setAttribute('aria-pressed', 'true');
    button.onclick = () => {
      if (hidden.has(kind)) hidden.delete(kind); else hidden.add(kind);
      button.setAttribute('aria-pressed', String(!hidden.has(kind)));
      document.querySelectorAll('#list li').forEach((li) => { li.hidden = hidden.has(changes[li.dataset.c].kind); li.style.display = li.hidden ? 'none' : ''; });
      draw();
    };
  }
  changes.forEach((change, c) => {
    const li = make('li', null, $('list'));
    li.dataset.c = c; li.tabIndex = 0; li.setAttribute('role', 'button');
    badge(change.kind, li);
    const text = make('div', null, li); text.style.minWidth = 0;
    make('b', change.title, text);
    const ops = (change.a.length ? change.a : change.b).map((op) => op.name);
    const more = ops.length > 3 ? ', … ' + ops.length + ' ops' : '';
    if (ops.length) make('small', ops.slice(0, 3).join(', ') + more, text);
    if (change.scope) make('small', 'in ' + change.scope, text);
    li.onclick = () => chooseChange(c);
    li.onkeydown = (event) => { if (event.key === 'Enter') chooseChange(c); };
  });
  const table = document.querySelector('#types table'), head = make('tr', null, table);
  ['', 'A', 'B', ''].forEach((text) => make('th', text, head));
  for (const [type, [one, other]] of Object.entries(data.diff.op_types)) {
    const row = make('tr', null, table, one === other ? 'same' : '');
    [type, one, other, one === other ? '' : (other > one ? '+' : '−') + Math.abs(other - one)].forEach((text) => make('td', text, row));
  }
  data.diff.notes.forEach((text) => make('li', text, document.querySelector('#notes ul')));
  $('notes').hidden = !data.diff.notes.length;
  theme(matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  mark(); resize(); start();
  // For tests: where things are, without a way to change them.
  window.diffPage = { graphs, members, changes, selection, view, screen, panes, paint: () => { resize(); panes.forEach(paint); } };
})();
