// Sorting: a click orders the rows of every block, best first; the next the other way; a third as they were.
for (const table of document.querySelectorAll('table.sortable')) {
  const headers = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies].map((body) => ({ body, rows: [...body.rows].filter((row) => row.className !== 'block') }));

  const valueOf = (row, column) => {
    const data = row.cells[column].dataset;
    if (data.number !== undefined) return Number(data.number);
    return data.text === undefined ? null : data.text;
  };
  const compare = (a, b) =>
    typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true });

  headers.forEach((header, column) => {
    const button = header.querySelector('button');
    button.addEventListener('click', () => {
      const first = button.dataset.first;
      const second = first === 'ascending' ? 'descending' : 'ascending';
      const now = header.getAttribute('aria-sort');
      const next = now === first ? second : now === second ? null : first;
      for (const other of headers) other.removeAttribute('aria-sort');
      if (next) header.setAttribute('aria-sort', next);
      for (const { body, rows } of bodies) {
        const sign = next === 'descending' ? -1 : 1;
        const filled = rows.filter((row) => valueOf(row, column) !== null);
        const empty = rows.filter((row) => valueOf(row, column) === null);
        filled.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
        body.append(...(next ? [...filled, ...empty] : rows));
      }
    });
  });
}
