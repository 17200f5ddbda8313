// Runs in a MiniWoB++ page. `start` lifts the time limit (2^31 - 1 ms) because a model may think for longer than ten
// seconds; the raw reward does not depend on time. `elements` lists what can be seen and hit: a box per line of inline
// text.
window.fovea = (() => {
  const OWN = '#query, #reward-display, #click-canvas, #attention-canvas, #sync-task-cover, script, style, option';
  const AREA = {left: 0, top: 50, right: 160, bottom: 210};
  const quiet = document.createElement('style');
  quiet.textContent = '*, *::before, *::after { transition: none !important; animation: none !important; ' +
    'caret-color: transparent !important; }';
  document.head.appendChild(quiet);
  if (window.jQuery) jQuery.fx.off = true;

  function start(seed, mode) {
    if (core.EP_TIMER !== null) core.endEpisode(0);
    if (document.activeElement) document.activeElement.blur();
    core.EPISODE_MAX_TIME = 2147483647;
    core.setDataMode(mode);
    Math.seedrandom(seed);
    core.startEpisodeReal();
    const words = core.getUtterance();
    return typeof words === 'string' ? words : words.utterance;
  }

  const state = () => ({done: WOB_DONE_GLOBAL, raw: WOB_RAW_REWARD_GLOBAL, ready: WOB_TASK_READY,
    reason: WOB_REWARD_REASON === null || WOB_REWARD_REASON === undefined ? null : String(WOB_REWARD_REASON)});

  function nameOf(e) {
    const said = e.getAttribute('aria-label') || e.getAttribute('alt') || e.getAttribute('placeholder');
    const ticked = e.matches('[type=radio], [type=checkbox]');
    const value = ticked ? (e.labels[0] || e).textContent : e.matches('input, textarea, select') ? e.value : '';
    const words = said || value || e.innerText || e.textContent || e.getAttribute('title') || '';
    return words.replace(/\s+/g, ' ').trim().slice(0, 120);
  }

  const meet = (a, b) => ({left: Math.max(a.left, b.left), top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right), bottom: Math.min(a.bottom, b.bottom)});
  const width = r => r.right - r.left, height = r => r.bottom - r.top;
  const at = (e, r, x, y) => {
    const hit = document.elementFromPoint(r.left + width(r) * x, r.top + height(r) * y);
    return hit !== null && e.contains(hit);
  };

  // What scrolling ancestors leave to see of a rectangle.
  function shown(e, rect) {
    let r = meet(rect, AREA);
    for (let a = e.parentElement; a && a.id !== 'area'; a = a.parentElement)
      if (getComputedStyle(a).overflow !== 'visible' && !(a instanceof SVGElement))
        r = meet(r, a.getBoundingClientRect());
    return r;
  }

  // Where something lies over the middle: the largest strip beside it whose middle is free, else the whole.
  function uncovered(e, r) {
    const over = document.elementFromPoint((r.left + r.right) / 2, (r.top + r.bottom) / 2);
    if (over === null || e.contains(over)) return r;
    const o = over.getBoundingClientRect();
    const strips = [{...r, right: o.left}, {...r, left: o.right}, {...r, bottom: o.top}, {...r, top: o.bottom}]
      .filter(s => width(s) >= 2 && height(s) >= 2 && at(e, s, .5, .5));
    return strips.sort((a, b) => width(b) * height(b) - width(a) * height(a))[0] || r;
  }

  const painted = (e, style) => e instanceof SVGElement || e.matches('button, input, textarea, select, img') ||
    style.backgroundImage !== 'none' || !/^(transparent|rgba\(.*, 0\))$/.test(style.backgroundColor) ||
    parseFloat(style.borderTopWidth) > 0;

  function elements() {
    const found = [];
    for (const e of document.body.querySelectorAll('*')) {
      if (e.closest(OWN) || e.id === 'wrap' || e.id === 'area') continue;
      const style = getComputedStyle(e);
      const rects = style.display === 'inline' && !(e instanceof SVGElement) && !e.matches('img, input, textarea')
        ? [...e.getClientRects()] : [e.getBoundingClientRect()];
      for (const rect of rects) {
        let r = shown(e, rect);
        if (width(r) < 2 || height(r) < 2) continue;
        r = uncovered(e, r);
        const hits = [[.5, .5], [.25, .25], [.75, .25], [.25, .75], [.75, .75]].map(p => at(e, r, ...p));
        if (!hits.some(x => x)) continue;
        found.push({e, box: [r.left, r.top, r.right, r.bottom], name: nameOf(e), painted: painted(e, style),
          center: hits[0], tag: e.tagName.toLowerCase() + (e.matches('input') ? ':' + e.type : ''),
          classes: String(e.getAttribute('class') || '')});
      }
    }
    return found.map(({e, ...rest}) => ({...rest, leaf: !found.some(o => o.e !== e && e.contains(o.e))}));
  }

  // Pictures that are still on their way would move the rest when they come, or be missing on a screenshot.
  async function pictures() {
    const urls = new Set([...document.images].map(i => i.src));
    for (const e of document.body.querySelectorAll('*'))
      for (const m of getComputedStyle(e).backgroundImage.matchAll(/url\("(.+?)"\)/g)) urls.add(m[1]);
    await Promise.all([...urls].map(u => { const i = new Image(); i.src = u; return i.decode().catch(() => null); }));
    await document.fonts.ready;
  }

  // What a mouse click at each point, each from a fresh start, would be worth: events made here, for speed.
  function probe(seed, mode, points) {
    return points.map(([x, y]) => {
      start(seed, mode);
      const e = document.elementFromPoint(x, y);
      if (e === null) return state();
      const about = {bubbles: true, cancelable: true, composed: true, view: window, clientX: x, clientY: y};
      for (const type of ['pointerover', 'mouseover', 'pointermove', 'mousemove', 'pointerdown', 'mousedown'])
        e.dispatchEvent(new (type.startsWith('p') ? PointerEvent : MouseEvent)(type, about));
      const focusable = e.closest('input, textarea, select, button, a[href], [tabindex]');
      if (focusable) focusable.focus();
      for (const type of ['pointerup', 'mouseup'])
        e.dispatchEvent(new (type.startsWith('p') ? PointerEvent : MouseEvent)(type, about));
      if (e.isConnected) e.dispatchEvent(new MouseEvent('click', about));
      return state();
    });
  }
  return {start, state, elements, pictures, probe};
})();
