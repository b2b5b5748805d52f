/**
 * Ids of headings, as GitHub makes them: lower case, without punctuation, `-` for each space, and `-1`, `-2` … where an id repeats.
 * @returns a function from a heading's plain text to its id, for one page
 */
export function slugger(): (text: string) => string {
  const counts = new Map<string, number>();
  return (text) => {
    const slug = text
      .trim()
      .toLowerCase()
      .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, '')
      .replaceAll(' ', '-');
    const count = counts.get(slug) ?? 0;
    counts.set(slug, count + 1);
    return count === 0 ? slug : `${slug}-${count}`;
  };
}
