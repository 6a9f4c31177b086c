// Draws the plots of the page with uPlot, in the colours of the page, and again when these or the
// width change, and for paper.
(() => {
  'use strict';
  const plots = JSON.parse(document.getElementById('plots').textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DASHES = [[], [8, 3], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4]];
  const COLOURS = 6;
  const PAPER_WIDTH = 680;
  const HEIGHT = 300;

  // 1/(1-p) as a percentile: 10 -> 90%, 1000 -> 99.9%.
  function percentile(of) {
    const nines = Math.max(0, Math.ceil(Math.log10(of) - 1e-9) - 2);
    return `${((1 - 1 / of) * 100).toFixed(nines)}%`;
  }

  function amount(value) {
    if (value == null) return '–';
    if (value === 0) return '0';
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 1 : 3;
    return value.toLocaleString('en', { maximumFractionDigits: digits });
  }

  const isPowerOfTen = (value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9;

  function shade(shaded) {
    return (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.fillStyle = colour('--shade');
      for (const [from, until] of shaded) {
        const left = Math.max(plot.valToPos(from, 'x', true), bbox.left);
        const right = Math.min(plot.valToPos(until, 'x', true), bbox.left + bbox.width);
        if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
      }
      ctx.restore();
    };
  }

  function draw(plot, at, width) {
    const element = document.getElementById(`plot-${at}`);
    element.replaceChildren();
    const percentiles = plot.axis === 'percentile';
    const axis = {
      stroke: colour('--text'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line'), width: 1 },
    };
    const x = percentiles
      ? { ...axis, filter: (_, splits) => splits.map((split) => (isPowerOfTen(split) ? split : null)),
          values: (_, splits) => splits.map((split) => (split == null ? '' : percentile(split))) }
      : { ...axis, values: (_, splits) => splits.map((split) => `${amount(split)} s`) };
    const y = {
      ...axis, size: 76,
      values: (_, splits) => splits.map((split) => (split == null ? '' : `${amount(split)} ${plot.unit}`)),
    };
    if (plot.logarithmic) y.filter = (_, splits) => splits.map((split) => (isPowerOfTen(split) ? split : null));
    const lines = plot.lines.map((line, at) => ({
      label: line.name, stroke: colour(`--line-${at % COLOURS}`), width: 1.75, dash: DASHES[at % DASHES.length],
      points: { show: false }, value: (_, value) => (value == null ? '–' : `${amount(value)} ${plot.unit}`),
    }));
    // A logarithm has no place for 0.
    const values = plot.lines.map((line) => (plot.logarithmic ? line.values.map((value) => value || null) : line.values));
    const options = {
      width, height: HEIGHT, axes: [x, y],
      scales: { x: percentiles ? { time: false, distr: 3 } : { time: false }, y: plot.logarithmic ? { distr: 3 } : { range: { min: { soft: 0, mode: 1 }, max: { pad: 0.1, soft: 1e-3, mode: 2 } } } },
      series: [{ label: percentiles ? 'percentile' : 'second', value: (_, value) => (value == null ? '–' : percentiles ? percentile(value) : `${amount(value)} s`) }, ...lines],
      hooks: { drawClear: [shade(plot.shaded)] },
      cursor: { drag: { x: true, y: false } },
    };
    const drawn = new uPlot(options, [plot.x, ...values], element);
    const canvas = drawn.root.querySelector('canvas');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `${plot.title}: ${plot.lines.map((line) => line.name).join(', ')}`);
  }

  const main = document.querySelector('main');
  const widthOf = () => Math.max(280, main.clientWidth - 2 * parseFloat(getComputedStyle(main).paddingLeft));
  let width = 0;
  function drawAll(wide) {
    width = wide;
    plots.forEach((plot, at) => draw(plot, at, wide));
  }

  drawAll(widthOf());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawAll(widthOf()));
  // Both come with the colours of paper already, or no more.
  matchMedia('print').addEventListener('change', (media) => drawAll(media.matches ? PAPER_WIDTH : widthOf()));
  addEventListener('resize', () => {
    if (!matchMedia('print').matches && widthOf() !== width) drawAll(widthOf());
  });
})();
