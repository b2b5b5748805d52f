/** Not what an API writes when it starts, since it may end if that fails: that changes no version. */
const CHANGE = /(insert into|update) "tasks".*"version"/s;
/** Share of the changes whose answer is lost. */
const LOST = 0.03;

/** For `startPostgresProxy`: loses some of the answers to changes of tasks, and to the commits of transactions with one. */
export const loseCommits = (random: () => number) => () => {
  let isTransaction = false;
  let hasChanged = false;
  return (sent: string): boolean => {
    if (/\bbegin\b/.test(sent)) [isTransaction, hasChanged] = [true, false];
    hasChanged = CHANGE.test(sent) || (isTransaction && hasChanged);
    const isEnd = /\bcommit\b/.test(sent);
    const isLost = hasChanged && (isEnd || !isTransaction) && random() < LOST;
    if (isEnd || /\brollback\b/.test(sent)) [isTransaction, hasChanged] = [false, false];
    return isLost;
  };
};
