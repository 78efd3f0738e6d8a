'use strict';
// Shows the row of the second under the pointer.
const data = JSON.parse(document.getElementById('data').textContent);
const tip = document.getElementById('tip');
const rows = new Map(data.rows.map(row => [row[0], row]));
const named = (names, values) => names.map((name, i) => name + ' ' + (values[i] === null ? 'down' : values[i])).join(', ');
for (const svg of document.querySelectorAll('svg[data-left]')) {
  const left = Number(svg.dataset.left), width = Number(svg.dataset.width), whole = svg.viewBox.baseVal.width;
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width * whole - left) / width;
    const second = Math.round(at * data.total);
    const row = rows.get(second);
    const words = event.target.closest('[data-say]');
    if (!words && (at < 0 || at > 1 || !row)) { tip.hidden = true; return; }
    const lines = [];
    if (words) lines.push(words.dataset.say);
    if (row && at >= 0 && at <= 1) {
      lines.push('second ' + second, 'differ: ' + named(data.nodes, row[1]));
      if (data.servers.length) lines.push('servers: ' + named(data.servers, row[2]));
      lines.push(row[5] + ' links, ' + row[3] + ' B between nodes, ' + row[4] + ' B of SIP');
    }
    tip.textContent = lines.join('\n');
    tip.hidden = false;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const y = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8);
    tip.style.left = x + 'px';
    tip.style.top = y + 'px';
  });
  svg.addEventListener('pointerleave', () => { tip.hidden = true; });
}
