// Texts whose contrast to what they stand on is below 4.5 (WCAG 2.1, 1.4.3), by computed styles.
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = "#000"; canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => {
    const a = top[3];
    return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a)).concat(1);
  };
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratio = (a, b) => {
    const [hi, lo] = [light(a), light(b)].sort((x, y) => y - x);
    return (hi + .05) / (lo + .05);
  };
  const shown = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), of = walker.currentNode.parentElement;
    if (!text || !of || ["SCRIPT", "STYLE", "NOSCRIPT", "TITLE"].includes(of.tagName)) continue;
    const box = of.getBoundingClientRect(), style = getComputedStyle(of);
    if (!box.width || !box.height || style.visibility === "hidden" || !of.checkVisibility({opacityProperty: true})) continue;
    // Marks of charts are images; the value of a slider stands beside the thumb that it is an element of.
    const written = of.closest(".role-axis, .role-legend");
    if (!written && of.closest("svg, canvas, [data-testid=stSliderThumbValue]")) continue;
    const chain = [];
    for (let at = of; at; at = at.parentElement) chain.unshift(at);
    let back = [255, 255, 255, 1], opacity = 1;
    for (const at of chain) {
      const s = getComputedStyle(at);
      const fill = rgba(s.backgroundColor); fill[3] *= opacity = opacity * +s.opacity;
      back = over(fill, back);
    }
    const colour = rgba(written ? style.fill : style.color); colour[3] *= opacity;
    const found = ratio(over(colour, back), back);
    if (found < 4.5) shown.push([found.toFixed(2), text.slice(0, 40), of.tagName, (of.closest("[data-testid]")||{dataset:{}}).dataset.testid, style.color, !!of.closest("[disabled],[aria-disabled=true]")]);
  }
  const seen = new Set();
  return shown.filter(x => { const k = x[0] + x[3] + x[4]; if (seen.has(k)) return false; seen.add(k); return true; });
}
