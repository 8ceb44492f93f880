// Tables sort by a click on a heading; the table of images shows one codec and quality at a time.

const TEXT_ORDER = new Intl.Collator(undefined, { numeric: true });

function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = element("button", { type: "button" }, heading.textContent);
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => compareCells(a.cells[column], b.cells[column], up ? 1 : -1)));
    });
  });
}

/** Numbers by size, text by its letters and numbers; missing values last in both directions. */
function compareCells(a, b, sign) {
  const missing = (cell) => cell.textContent === "—";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if ("value" in a.dataset && "value" in b.dataset) return sign * (a.dataset.value - b.dataset.value);
  return sign * TEXT_ORDER.compare(a.textContent, b.textContent);
}

function makeFilter(table, codecs, qualities) {
  const rows = [...table.tBodies[0].rows];
  const show = () => {
    for (const row of rows) {
      const { codec, quality } = row.dataset;
      row.hidden = codec !== codecs.value || (qualities.value !== "" && quality !== qualities.value);
    }
  };
  const listQualities = () => {
    const own = distinct(rows.filter((row) => row.dataset.codec === codecs.value).map((row) => row.dataset.quality));
    qualities.replaceChildren(option("", "all"), ...own.map((quality) => option(quality, quality)));
    show();
  };
  codecs.replaceChildren(...distinct(rows.map((row) => row.dataset.codec)).map((codec) => option(codec, codec)));
  codecs.addEventListener("change", listQualities);
  qualities.addEventListener("change", show);
  listQualities();
}
