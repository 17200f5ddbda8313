// Marks the candidates, looks at each by hitting nine points of its box, and says why the others are left out.
([mark, minSide, minHits]) => {
  const WANTED = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [role], [onclick], ' +
    '[tabindex]:not([tabindex="-1"]), [contenteditable=true], img, h1, h2, h3';
  const WORDLESS = ['password', 'checkbox', 'radio', 'range', 'color', 'file', 'image'];
  const W = innerWidth, H = innerHeight;
  const all = [];
  const collect = root => {
    for (const e of root.querySelectorAll('*')) {
      if (e.matches(WANTED)) all.push(e);
      if (e.shadowRoot) collect(e.shadowRoot);
    }
  };
  collect(document);
  const deepest = (x, y) => {
    let e = document.elementFromPoint(x, y);
    while (e && e.shadowRoot) {
      const inner = e.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === e) break;
      e = inner;
    }
    return e;
  };
  const up = e => e.parentNode instanceof ShadowRoot ? e.parentNode.host : e.parentElement;
  const belongs = (hit, e) => { for (let a = hit; a; a = up(a)) if (a === e) return true; return false; };
  const labeled = (hit, e) => e.labels && [...e.labels].some(l => belongs(hit, l));
  const wanted = new Set(all);
  const owner = hit => { for (let a = hit; a; a = up(a)) if (wanted.has(a)) return a; return null; };
  const seen = e => {
    if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) return false;
    let o = 1;
    for (let a = e; a; a = up(a)) o *= parseFloat(getComputedStyle(a).opacity);
    return o >= 0.2;
  };
  const own = e => {
    const c = getComputedStyle(e).backgroundColor.match(/[0-9.]+/g);
    return c && (c.length < 4 || parseFloat(c[3]) > 0.5) ? c.slice(0, 3).map(Number) : null;
  };
  // Words for screen readers alone are clipped to a pixel or lie elsewhere: nobody sees them.
  const unseen = (text, e, box) => {
    const range = document.createRange();
    range.selectNodeContents(text);
    const at = range.getBoundingClientRect();
    if (at.right <= box.left || at.left >= box.right || at.bottom <= box.top || at.top >= box.bottom) return true;
    for (let a = text.parentElement; a; a = up(a)) {
      const style = getComputedStyle(a), own = a.getBoundingClientRect();
      if (style.visibility !== 'visible' || parseFloat(style.opacity) < 0.2) return true;
      if ((own.width <= 2 || own.height <= 2) && style.overflow !== 'visible') return true;
      if (a === e) return false;
    }
    return false;
  };
  const shown = e => {
    const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), box = e.getBoundingClientRect();
    let hides = false;
    while (!hides && walker.nextNode())
      hides = !!walker.currentNode.data.trim() && unseen(walker.currentNode, e, box);
    if (!hides) return e.innerText || '';
    const parts = [];
    walker.currentNode = e;
    while (walker.nextNode()) if (!unseen(walker.currentNode, e, box)) parts.push(walker.currentNode.data);
    return parts.join(' ');
  };
  const drawn = e => e.matches('select:not([multiple])') ? (e.selectedOptions[0] || {label: ''}).label
    : e.matches('input, textarea') ? (WORDLESS.includes(e.type) ? '' : e.value || e.placeholder)
    : e.matches('select') ? '' : shown(e);
  const dropped = {}, found = [];
  const drop = why => { dropped[why] = (dropped[why] || 0) + 1; };
  for (const e of all) {
    e.removeAttribute(mark);
    if (!seen(e)) { drop('invisible'); continue; }
    const words = document.createRange();
    words.selectNodeContents(e);
    const r = (e.matches('h1, h2, h3') ? words : e).getBoundingClientRect();  // a heading is as wide as its words
    if (r.width < minSide || r.height < minSide) { drop('too small'); continue; }
    if (r.right <= 0 || r.bottom <= 0 || r.left >= W || r.top >= H) { drop('off screen'); continue; }
    if (r.width * r.height > 0.5 * W * H) { drop('too large'); continue; }
    let hits = 0;
    for (const fx of [0.1, 0.5, 0.9]) for (const fy of [0.1, 0.5, 0.9]) {
      const x = r.left + r.width * fx, y = r.top + r.height * fy;
      const hit = deepest(Math.min(Math.max(x, 0), W - 1), Math.min(Math.max(y, 0), H - 1));
      if (hit && (belongs(hit, e) || labeled(hit, e))) hits++;
    }
    const middle = deepest((Math.max(r.left, 0) + Math.min(r.right, W)) / 2,
      (Math.max(r.top, 0) + Math.min(r.bottom, H)) / 2);
    if (hits < minHits || !middle) { drop('covered'); continue; }
    if (owner(middle) !== e && !labeled(middle, e)) { drop('holds another'); continue; }
    // Seen in part, or in two parts: not asked for, but a description must not fit it either.
    const clipped = r.left < -1 || r.top < -1 || r.right > W + 1 || r.bottom > H + 1;
    const wraps = getComputedStyle(e).display === 'inline' && e.getClientRects().length > 1;
    if (clipped) drop('clipped');
    else if (wraps) drop('wraps over lines');
    e.setAttribute(mark, found.length);
    const style = getComputedStyle(e);
    found.push({box: [Math.max(r.left, 0), Math.max(r.top, 0), Math.min(r.right, W), Math.min(r.bottom, H)],
      fill: own(e), ink: style.color.match(/[0-9.]+/g).slice(0, 3).map(Number),
      whole: !clipped && !wraps, text: drawn(e).replace(/\s+/g, ' ').trim().slice(0, 200),
      picture: !!e.querySelector('svg, img, i, canvas') || e.matches('img, svg')});
  }
  return {found, dropped, height: document.documentElement.scrollHeight};
}
