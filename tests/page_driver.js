// Appended to the page by tests/diff_page.rs: does what a reader does, and writes what came of it into the document.
(() => {
  const result = { errors: [] };
  window.addEventListener('error', (event) => result.errors.push(String(event.message)));
  const page = window.diffPage;
  const finish = () => {
    const element = document.createElement('pre');
    element.id = 'result'; element.textContent = JSON.stringify(result);
    document.body.append(element);
  };
  if (!page) { result.errors.push('the page did not start'); finish(); return; }
  // Frames come when the browser likes; here one is painted at once.
  const wait = () => new Promise((done) => setTimeout(() => { page.paint(); done(); }, 1));
  const drawn = (pane) => {
    const { width, height } = pane.canvas, pixels = pane.canvas.getContext('2d').getImageData(0, 0, width, height).data;
    const seen = new Set();
    for (let k = 0; k < pixels.length; k += 4) seen.add((pixels[k] << 16) | (pixels[k + 1] << 8) | pixels[k + 2]);
    return seen.size;
  };
  const click = (side, i) => {
    const pane = page.panes[side], box = pane.canvas.getBoundingClientRect(), at = page.screen(side, i);
    const event = { clientX: box.left + at.x, clientY: box.top + at.y, bubbles: true, pointerId: 1 };
    pane.canvas.dispatchEvent(new PointerEvent('pointerdown', event));
    pane.canvas.dispatchEvent(new PointerEvent('pointerup', event));
  };
  const key = (name) => document.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true }));
  const inView = (side, i) => {
    const pane = page.panes[side], at = page.screen(side, i);
    return at.x >= 0 && at.y >= 0 && at.x <= pane.w && at.y <= pane.h;
  };
  (async () => {
    await wait();
    result.ops = page.graphs.map((graph) => graph.ops);
    result.colors = page.panes.map(drawn);
    result.layers = page.graphs.map((graph) => graph.rows.size);
    result.overlaps = page.graphs.map((graph) => {
      let count = 0;
      for (const row of graph.rows.values()) {
        const boxes = row.map((i) => graph.nodes[i]).sort((one, other) => one.x - other.x);
        for (let k = 1; k < boxes.length; k++) if (boxes[k].x - boxes[k - 1].x < (boxes[k].w + boxes[k - 1].w) / 2) count++;
      }
      return count;
    });
    result.aligned = page.graphs[0].twin.reduce((count, twin, i) => count + (twin >= 0 && page.graphs[0].nodes[i].y === page.graphs[1].nodes[twin].y ? 1 : 0), 0);
    result.pairs = page.graphs[0].twin.filter((twin) => twin >= 0).length;
    const fused = page.changes.findIndex((change) => change.kind === 'fused' || change.kind === 'changed');
    if (fused >= 0) {
      const [ours, theirs] = page.members[fused];
      const one = ours[ours.length - 1];
      page.view.scale = 1; page.view.x = page.graphs[0].nodes[one].x; page.view.y = page.graphs[0].nodes[one].y;
      click(0, one);
      await wait();
      result.details = document.getElementById('details').textContent;
      result.chosen = page.selection.sets.map((set) => set.size);
      result.counterpartInView = theirs.every((i) => !page.selection.sets[1].has(i) || inView(1, i));
    }
    key('Escape');
    const steps = [];
    for (let k = 0; k < Math.min(4, page.changes.length); k++) { key(k % 2 ? 'j' : 'n'); await wait(); steps.push(page.selection.change); }
    key('p'); await wait(); steps.push(page.selection.change);
    result.steps = steps;
    const search = document.getElementById('search');
    search.value = page.graphs[0].nodes[0].name; search.dispatchEvent(new Event('input', { bubbles: true }));
    result.found = page.selection.found.map((set) => set.size);
    // Fifty frames while zooming and moving over the whole graph.
    key('f'); await wait();
    const start = performance.now();
    for (let k = 0; k < 50; k++) { key(k < 20 ? '+' : 'ArrowDown'); page.paint(); }
    result.frame = (performance.now() - start) / 50;
    result.injected = window.injected === true || document.querySelectorAll('script').length;
    finish();
  })().catch((error) => { result.errors.push(String(error && error.stack || error)); finish(); });
})();
